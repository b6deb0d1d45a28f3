"""Makes a bucket ready to be a store: creates it, and has the service clear up uploads that broke off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import ClientError

from mirror.adapters.s3.client import S3Client
from mirror.adapters.s3.failures import TRANSPORT_ERRORS, explain
from mirror.adapters.s3.options import S3Options
from mirror.errors import StartError, printable

RULE: Final = "mirror-abort-incomplete-uploads"
"""The name of our rule among the bucket's own."""
DAYS: Final = 1
"""After which an upload that is not finished never will be."""

_EXISTS: Final = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
_NO_RULES: Final = ("NoSuchLifecycleConfiguration",)
_HOME: Final = "us-east-1"
"""The one region that must not be named when a bucket is created in it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What had to be done."""

    created: bool
    """The bucket was not there."""
    lifecycle: str
    """`added`, `present`, or why the service does not take the rule."""


async def prepare_bucket(options: S3Options) -> Prepared:
    """Creates the bucket if it is missing and adds the rule for broken uploads; done again, it changes nothing.

    Raises `StartError` if there is no bucket in the end that this mirror may look at.
    """
    client = S3Client(options)
    await client.start()
    try:
        created = await _created(client, options)
        return Prepared(created, await _with_rule(client, options.prefix))
    except TRANSPORT_ERRORS as error:
        raise StartError(f"The service for {options.where} cannot be reached: {explain(error).why}.") from error
    finally:
        await client.aclose()


async def _created(client: S3Client, options: S3Options) -> bool:
    try:
        await client.api.head_bucket(**client.names)
    except ClientError as error:
        if _status(error) != 404:
            raise StartError(f"{options.where} cannot be used: {explain(error).why}.") from error
    else:
        return False
    more: dict[str, Any] = {}
    if client.region != _HOME:
        more["CreateBucketConfiguration"] = {"LocationConstraint": client.region}
    try:
        await client.api.create_bucket(**client.names, **more)
    except ClientError as error:
        if _code(error) in _EXISTS:  # somebody was faster; whether it is ours shows when it is used
            return False
        raise StartError(f"{options.where} cannot be created: {explain(error).why}.") from error
    return True


async def _with_rule(client: S3Client, prefix: str) -> str:
    try:
        found = await client.api.get_bucket_lifecycle_configuration(**client.names)
        rules = list(found.get("Rules", []))
    except ClientError as error:
        if _code(error) not in _NO_RULES:
            # Writing replaces all rules, so where those that are there cannot be read nothing is written.
            return _refusal(error)
        rules = []
    name = RULE + (f"-{prefix.strip('/').replace('/', '-')}" if prefix else "")
    rule = {
        "ID": name[:255],
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": DAYS},
    }
    if any(each.get("ID") == rule["ID"] and each.get("Status") == "Enabled" for each in rules):
        return "present"
    rules = [each for each in rules if each.get("ID") != rule["ID"]] + [rule]
    try:
        await client.api.put_bucket_lifecycle_configuration(**client.names, LifecycleConfiguration={"Rules": rules})
    except ClientError as error:
        return _refusal(error)
    return "added"


def _refusal(error: ClientError) -> str:
    status, code = _status(error), _code(error)
    return f"the service refuses it ({printable(code, 60) or 'no code'}, HTTP {status})"


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
