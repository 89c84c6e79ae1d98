"""Where a lake can be: a folder, or a prefix in a bucket of an S3 service. Options come from the environment."""

import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from storage.errors import LakeError, explained

# delta-rs reads a table's place as a URL and fails on these (measured, deltalake 1.6.6); DuckDB takes *?[ as patterns.
_REFUSED = set("[]|^\\%*?") | {chr(code) for code in range(32)}

# Made at the first opening, and there ever after: that it cannot be made again shows that conditions are kept.
_MARKER = ".lake"
_MARKER_TEXT = b"A lake of video-rlaif: tables/ and blobs/ beside this object.\n"

# What the environment tells of an S3 service.
S3_VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ALLOW_HTTP",
)

# How often a request is tried before its failure is told; waits between tries grow up to 20 s.
S3_ATTEMPTS = 8


def is_s3(root: str) -> bool:
    """Whether `root` names a bucket and not a folder."""
    return root.startswith("s3://")


def absolute(root: str | Path) -> str:
    """Return `root` as an absolute folder or as `s3://bucket/prefix` without a slash at the end.

    Raises LakeError for another scheme, credentials in the address, no bucket, or a character that cannot be stored.
    """
    text = str(root)
    if text.startswith("s3:/") and not is_s3(text):
        text = f"s3://{text[4:]}"  # What pathlib makes of s3://.
    if is_s3(text):
        bucket = text[5:].split("/")[0]
        if "@" in bucket:
            raise LakeError("The lake's address holds credentials: name it s3://bucket/prefix and set AWS_* variables.")
        if not bucket:
            raise LakeError(f"The lake {text!r} names no bucket: write s3://bucket/prefix.")
        text = f"s3://{'/'.join(part for part in text[5:].split('/') if part)}"
    elif "://" in text:
        raise LakeError(f"The lake cannot be in {text.split('://')[0]}://: name a folder, or s3://bucket/prefix.")
    else:
        text = os.path.abspath(os.path.expanduser(text))
    refused = sorted(_REFUSED & set(text))
    if refused:
        raise LakeError(f"The lake {text!r} cannot be used because of {refused}: choose a name without them.")
    return text


def delta_options(root: str) -> dict[str, str]:
    """Options for delta-rs: empty for a folder; for S3 those of the environment and conditional writes."""
    if not is_s3(root):
        return {}
    options = {name: os.environ[name] for name in S3_VARIABLES if os.environ.get(name)}
    # Repeats 5xx answers and lost connections by itself; with these limits it gives up after a minute.
    patience = {"max_retries": "10", "retry_timeout": "60s"}
    return {**options, **patience, "AWS_REGION": _region(), "aws_conditional_put": "etag"}


def s3_files() -> Any:
    """The s3fs file system of this environment; one a process, while its variables stay what they are."""
    return _s3_files(os.getpid(), *(os.environ.get(name) for name in S3_VARIABLES))


@lru_cache(maxsize=4)
def _s3_files(*_environment: object) -> Any:
    import s3fs

    # Keys are left to botocore, which reads them itself: given here, they would stand in the object's JSON form.
    return s3fs.S3FileSystem(
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL") or None,
        client_kwargs={"region_name": _region()},
        config_kwargs={"retries": {"max_attempts": S3_ATTEMPTS, "mode": "standard"}},
        use_listings_cache=False,  # Other processes write the same lake.
        skip_instance_cache=True,  # That cache would give out the keys of another environment.
    )


def check(root: str) -> None:
    """Make the folder where it is missing, and see that it, or the bucket, can be used. Raises LakeError."""
    with explained("open the lake", root):
        if is_s3(root):
            _check_bucket(root)
            return
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass


def _region() -> str:
    return os.environ.get("AWS_REGION") or "us-east-1"


def _check_bucket(root: str) -> None:
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if "@" in endpoint:
        raise LakeError("AWS_ENDPOINT_URL holds credentials: leave them out and set AWS_ACCESS_KEY_ID and its secret.")
    if endpoint.startswith("http://") and os.environ.get("AWS_ALLOW_HTTP", "").lower() not in {"true", "1"}:
        raise LakeError(f"AWS_ENDPOINT_URL of the lake {root} is not encrypted: use https, or set AWS_ALLOW_HTTP=true.")
    bucket = root[5:].split("/", maxsplit=1)[0]
    s3 = s3_files()
    try:
        s3.call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError:
        raise LakeError(
            f"The lake {root} is in a bucket that does not exist: create {bucket!r}, or correct the name."
        ) from None
    _check_conditions(root, s3)


def _check_conditions(root: str, s3: Any) -> None:
    """Refuse an endpoint that does not keep `If-None-Match: *`: there two writers could both commit one version."""
    place = f"{root}/{_MARKER}"
    reason = "it took the same object twice"
    for _ in range(2):
        try:
            s3.pipe_file(place, _MARKER_TEXT, mode="create")
        except FileExistsError:
            return
        except (OSError, ValueError) as error:
            if not re.search("NotImplemented|not implemented|A header you provided", str(error)):
                raise
            reason = "it refuses the header"
            break
    else:
        s3.rm_file(place)
    raise LakeError(
        f"The lake {root} cannot be at {os.environ.get('AWS_ENDPOINT_URL') or 'this endpoint'}: it does not keep "
        f"conditional writes (If-None-Match: *; {reason}), so two writers could overwrite each other's commits. Use an "
        "S3 service that keeps them (AWS, MinIO, Ceph, R2 do), or a folder."
    )
