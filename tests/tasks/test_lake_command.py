"""Commands in messages: whole for a folder, and for a bucket with the option that a run's block needs."""

from tasks.lake_command import lake_command


def test_a_bucket_names_the_option_of_the_block_and_a_folder_does_not() -> None:
    assert lake_command("judge", "/some/la ke") == "`rlaif judge '/some/la ke'`"
    said = lake_command("audit", "s3://bucket/prefix", "--arm", "one")
    assert said == (
        "`rlaif audit s3://bucket/prefix --arm one` (with `--s3-block NAME` where the run has run.s3_block)"
    )
