"""What an S3 service does, asked in some forty ways; every probe answers with a few words."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from botocore.exceptions import BotoCoreError, FlexibleChecksumError
from yarl import URL

from tests.s3.clients import DEFAULT_CHECKSUMS, connected, expired_url, headers_for, outcome, url_of
from tests.support.s3.services import S3Service

PART: Final = 5 * 1024 * 1024
"""The smallest part that is not the last."""

ABSENT: Final = "0" * 32
"""The ETag of nothing that is here."""


@dataclass
class Probed:
    """A service with a client and a bucket; `at` names an object in the bucket that no other probe knows."""

    service: S3Service
    client: Any
    http: aiohttp.ClientSession
    bucket: str
    _numbers: Any = field(default_factory=itertools.count)

    def at(self, name: str = "object") -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.folder()}{name}"}

    def folder(self) -> str:
        return f"probe-{next(self._numbers)}/"

    async def put(self, at: dict[str, str], body: bytes = b"1", **more: Any) -> str:
        """The ETag, unquoted."""
        return str((await self.client.put_object(**at, Body=body, **more))["ETag"]).strip('"')

    async def get(self, at: dict[str, str], **more: Any) -> bytes:
        async with (await self.client.get_object(**at, **more))["Body"] as body:
            return bytes(await body.read())

    async def keys(self, folder: str, **more: Any) -> list[str]:
        """The names of the first page of a listing."""
        answer = await self.client.list_objects_v2(Bucket=self.bucket, Prefix=folder, **more)
        return [found["Key"].removeprefix(folder) for found in answer.get("Contents", [])]

    async def url(self, operation: str, at: dict[str, str], **more: Any) -> URL:
        signed = await self.client.generate_presigned_url(operation, Params={**at, **more}, ExpiresIn=600)
        return URL(signed, encoded=True)

    async def ask(self, method: str, url: URL | str, **more: Any) -> str:
        async with self.http.request(method, url if isinstance(url, URL) else URL(url, encoded=True), **more) as answer:
            await answer.read()
            return str(answer.status)


# Objects and keys


async def put_head_get_delete(p: Probed) -> str:
    at = p.at()
    tag = await p.put(at, b"hello")
    assert (await p.client.head_object(**at))["ContentLength"] == 5
    assert await p.get(at) == b"hello"
    gone = await outcome(p.client.delete_object(**at))
    missing = await outcome(p.client.get_object(**at))
    again = await outcome(p.client.delete_object(**at))
    kind = "md5" if tag == hashlib.md5(b"hello").hexdigest() else "else"
    return f"ETag {kind}; deleted {gone}; missing {missing}; deleted again {again}"


async def list_pages(p: Probed) -> str:
    folder = p.folder()
    names = [f"{n:02}" for n in range(25)]
    await asyncio.gather(*(p.put({"Bucket": p.bucket, "Key": f"{folder}{name}"}) for name in names))
    sizes: list[int] = []
    found: list[str] = []
    async for page in p.client.get_paginator("list_objects_v2").paginate(
        Bucket=p.bucket, Prefix=folder, PaginationConfig={"PageSize": 10}
    ):
        sizes.append(len(page["Contents"]))
        found += [each["Key"].removeprefix(folder) for each in page["Contents"]]
    after = await p.keys(folder, StartAfter=f"{folder}20")
    grouped = await p.client.list_objects_v2(Bucket=p.bucket, Prefix=folder.rstrip("/"), Delimiter="/")
    prefixes = [each["Prefix"] == folder for each in grouped["CommonPrefixes"]]
    return f"pages {sizes}, ordered {found == names}, after {after}, prefixes {prefixes}"


async def list_by_a_prefix_inside_a_name(p: Probed) -> str:
    at = p.at("abc")
    await p.put(at)
    return str(await p.keys(at["Key"][:-1]))


async def list_right_after_puts(p: Probed) -> str:
    folder, stale = p.folder(), 0
    for n in range(20):
        await p.put({"Bucket": p.bucket, "Key": f"{folder}{n:02}"})
        stale += f"{n:02}" not in await p.keys(folder)
    return f"{stale} stale"


async def odd_keys(p: Probed) -> str:
    wrong = []
    for name in ("a b", "a+b", "ä€𝄞", "a%2Fb", "~!'()", "x" * 200, "/".join(["y" * 179] * 5)):
        at = p.at(name)
        await p.put(at, name.encode())
        if await p.get(at) != name.encode() or await p.keys(at["Key"].removesuffix(name)) != [name]:
            wrong.append(name)
    return "; ".join(wrong) or "ok"


async def key_that_ends_in_a_slash(p: Probed) -> str:
    at = p.at("folder/")
    return f"{await outcome(p.client.put_object(**at, Body=b'1'))}; listed {await p.keys(at['Key'])}"


async def key_with_two_slashes(p: Probed) -> str:
    at = p.at("a//b")
    return (
        f"{await outcome(p.client.put_object(**at, Body=b'1'))}; listed {await p.keys(at['Key'].removesuffix('a//b'))}"
    )


async def key_below_a_key(p: Probed) -> str:
    at = p.at("a")
    await p.put(at)
    return await outcome(p.client.put_object(Bucket=p.bucket, Key=f"{at['Key']}/b", Body=b"1"))


# Ranges and conditions


async def ranges(p: Probed) -> str:
    at = p.at()
    await p.put(at, b"0123456789")
    part = await p.client.get_object(**at, Range="bytes=2-4")
    assert await part["Body"].read() == b"234"
    assert part["ContentRange"] == "bytes 2-4/10"
    return (
        f"{part['ResponseMetadata']['HTTPStatusCode']}; {await outcome(p.client.get_object(**at, Range='bytes=10-'))}"
    )


async def get_if_none_match(p: Probed) -> str:
    at = p.at()
    tag = f'"{await p.put(at)}"'
    got, head = p.client.get_object(**at, IfNoneMatch=tag), p.client.head_object(**at, IfNoneMatch=tag)
    return f"{await outcome(got)}; {await outcome(head)}"


async def get_if_modified_since_or_match(p: Probed) -> str:
    at = p.at()
    await p.put(at)
    stored = (await p.client.head_object(**at))["LastModified"]
    since = await outcome(p.client.get_object(**at, IfModifiedSince=stored))
    return f"{since}; {await outcome(p.client.get_object(**at, IfMatch=ABSENT))}"


async def create_twice(p: Probed) -> str:
    at = p.at()
    return "; ".join([await outcome(p.client.put_object(**at, Body=b"1", IfNoneMatch="*")) for _ in range(2)])


async def create_in_ten_races(p: Probed) -> str:
    winners = set()
    for _ in range(10):
        at = p.at()
        racers = (p.client.put_object(**at, Body=b"%d" % n, IfNoneMatch="*") for n in range(8))
        winners.add((await asyncio.gather(*map(outcome, racers))).count("200"))
    return "one winner each" if winners == {1} else "several winners"


async def replace_if_match_quoted(p: Probed) -> str:
    return await _replace_if_match(p, '"{}"')


async def replace_if_match_unquoted(p: Probed) -> str:
    return await _replace_if_match(p, "{}")


async def _replace_if_match(p: Probed, form: str) -> str:
    at = p.at()
    tag = form.format(await p.put(at))
    right = await outcome(p.client.put_object(**at, Body=b"2", IfMatch=tag))
    wrong = await outcome(p.client.put_object(**at, Body=b"3", IfMatch=form.format(ABSENT)))
    missing = await outcome(p.client.put_object(**p.at(), Body=b"4", IfMatch=tag))
    return f"right {right}; wrong {wrong}; missing {missing}"


async def count_together_if_match(p: Probed) -> str:
    """Eight writers increment one counter, each in three tries; unquoted tags."""
    at = p.at()
    await p.put(at, b"0")

    async def increment() -> int:
        done = 0
        for _ in range(3):
            got = await p.client.get_object(**at)
            async with got["Body"] as body:
                counted = int(await body.read())
            tag = got["ETag"].strip('"')
            done += await outcome(p.client.put_object(**at, Body=b"%d" % (counted + 1), IfMatch=tag)) == "200"
        return done

    done = sum(await asyncio.gather(*(increment() for _ in range(8))))
    return "exact" if done == int(await p.get(at)) else "lost"


async def delete_if_match(p: Probed) -> str:
    at = p.at()
    await p.put(at)
    answer = await outcome(p.client.delete_object(**at, IfMatch=ABSENT))
    return f"{answer}; then {await outcome(p.client.head_object(**at))}"


# Several parts, copies, many at once


async def multipart(p: Probed) -> str:
    at = p.at()
    upload = await _begin(p, at, Metadata={"a": "b"})
    hidden = await outcome(p.client.head_object(**at))
    parts = await asyncio.gather(*(_part(p, at, upload, n, body) for n, body in ((1, b"1" * PART), (2, b"2"))))
    listed = [part["PartNumber"] for part in (await p.client.list_parts(**at, UploadId=upload))["Parts"]]
    open_now = (await p.client.list_multipart_uploads(Bucket=p.bucket))["Uploads"]
    await _complete(p, at, upload, parts)
    assert await p.get(at) == b"1" * PART + b"2"
    metadata = (await p.client.head_object(**at))["Metadata"]
    return f"before {hidden}; parts {listed}; open {upload in [u['UploadId'] for u in open_now]}; metadata {metadata}"


async def multipart_in_reverse(p: Probed) -> str:
    at = p.at()
    upload = await _begin(p, at)
    second = await _part(p, at, upload, 2, b"2")
    first = await _part(p, at, upload, 1, b"1" * PART)
    await _complete(p, at, upload, [first, second])
    return "ok" if await p.get(at) == b"1" * PART + b"2" else "mixed up"


async def multipart_abort(p: Probed) -> str:
    at = p.at()
    upload = await _begin(p, at)
    aborted = await outcome(p.client.abort_multipart_upload(**at, UploadId=upload))
    late = await outcome(p.client.upload_part(**at, UploadId=upload, PartNumber=1, Body=b"1"))
    return f"{aborted}; a part afterwards {late}"


async def complete_if_none_match(p: Probed) -> str:
    at = p.at()
    await p.put(at)
    upload = await _begin(p, at)
    parts = {"Parts": [await _part(p, at, upload, 1, b"2")]}
    return await outcome(
        p.client.complete_multipart_upload(**at, UploadId=upload, MultipartUpload=parts, IfNoneMatch="*")
    )


async def copy(p: Probed) -> str:
    at, to = p.at(), p.at()
    await p.put(at, Metadata={"a": "b"})
    await p.client.copy_object(**to, CopySource=at)
    kept = (await p.client.head_object(**to))["Metadata"].get("a") == "b"
    onto_itself = p.client.copy_object(**to, CopySource=to, MetadataDirective="REPLACE", Metadata={"c": "d"})
    answer, replaced = await outcome(onto_itself), (await p.client.head_object(**to))["Metadata"] == {"c": "d"}
    return f"metadata {'kept' if kept else 'lost'}; {answer}, metadata {'replaced' if replaced else 'as it was'}"


async def delete_many_one_missing(p: Probed) -> str:
    at = p.at()
    await p.put(at)
    objects = [{"Key": at["Key"]}, {"Key": p.at()["Key"]}]
    answer = await p.client.delete_objects(Bucket=p.bucket, Delete={"Objects": objects})
    return f"{len(answer['Deleted'])} deleted, {len(answer.get('Errors', []))} errors"


# Checksums and signatures


async def default_checksums(p: Probed) -> str:
    """Of botocore, with a body of bytes and one of a file: stored without framing? And returned?"""
    words = []
    checksums: dict[str, Any] = {
        "request_checksum_calculation": DEFAULT_CHECKSUMS,
        "response_checksum_validation": DEFAULT_CHECKSUMS,
    }
    async with connected(p.service, **checksums) as client:
        for body in (b"0123456789", io.BytesIO(b"0123456789")):
            at = p.at()
            await client.put_object(**at, Body=body)
            assert await p.get(at) == b"0123456789"
        part = await client.get_object(**at, ChecksumMode="ENABLED", Range="bytes=2-4")
        words.append("returned on ranges" if "ChecksumCRC32" in part else "not returned on ranges")
        try:
            await part["Body"].read()
        except FlexibleChecksumError:
            words.append("and refused by the client")
    whole = await p.client.get_object(**at, ChecksumMode="ENABLED")
    return f"{'returned' if 'ChecksumCRC32' in whole else 'not returned'}; {', '.join(words)}"


async def checksum_sha256(p: Probed) -> str:
    at = p.at()
    wrong, right = (base64.b64encode(hashlib.sha256(body).digest()).decode() for body in (b"2", b"1"))
    refused = await outcome(p.client.put_object(**at, Body=b"1", ChecksumSHA256=wrong))
    await p.put(at, ChecksumSHA256=right)
    head = await p.client.head_object(**at, ChecksumMode="ENABLED")
    return f"wrong {refused}; {'returned' if 'ChecksumSHA256' in head else 'not returned'}"


async def wrong_content_md5(p: Probed) -> str:
    return await outcome(p.client.put_object(**p.at(), Body=b"1", ContentMD5=base64.b64encode(bytes(16)).decode()))


async def wrong_content_sha256(p: Probed) -> str:
    at = p.at()
    headers = headers_for(p.service, "PUT", at["Bucket"], at["Key"], hashlib.sha256(b"2").hexdigest())
    return await p.ask("PUT", url_of(p.service, at["Bucket"], at["Key"]), data=b"1", headers=headers)


async def signed_urls(p: Probed) -> str:
    at = p.at()
    url = await p.url("put_object", at)
    put = await p.ask("PUT", url, data=b"0123456789")
    url = await p.url("get_object", at)
    async with p.http.get(url) as answer:
        assert await answer.read() == b"0123456789"
    async with p.http.get(url, headers={"Range": "bytes=2-4"}) as answer:
        assert await answer.read() == b"234"
        part = answer.status
    async with p.http.get(await p.url("get_object", at, ResponseContentType="text/x-own")) as answer:
        kind = answer.content_type
    spoilt = str(url)[:-4] + ("0000" if not str(url).endswith("0000") else "1111")
    bad, expired = await p.ask("GET", spoilt), await p.ask("GET", expired_url(p.service, at["Bucket"], at["Key"]))
    return f"put {put}; range {part}; type {kind}; bad {bad}; expired {expired}"


async def head_with_a_url_for_get(p: Probed) -> str:
    at = p.at()
    await p.put(at)
    return await p.ask("HEAD", await p.url("get_object", at))


async def wrong_secret_or_none(p: Probed) -> str:
    at = p.at()
    await p.put(at)
    async with connected(p.service, secret_key="wrong") as client:
        wrong = await outcome(client.get_object(**at))
    return f"{wrong}; anonymous {await p.ask('GET', url_of(p.service, at['Bucket'], at['Key']))}"


# What not every service has


async def server_side_encryption(p: Probed) -> str:
    return await outcome(p.client.put_object(**p.at(), Body=b"1", ServerSideEncryption="AES256"))


async def storage_class_and_acl(p: Probed) -> str:
    rare = await outcome(p.client.put_object(**p.at(), Body=b"1", StorageClass="STANDARD_IA"))
    return f"{rare}; {await outcome(p.client.put_object(**p.at(), Body=b'1', ACL='private'))}"


async def tags(p: Probed) -> str:
    at = p.at()
    await p.put(at)
    wanted = [{"Key": "a", "Value": "b"}]
    if (answer := await outcome(p.client.put_object_tagging(**at, Tagging={"TagSet": wanted}))) != "200":
        return answer
    return "ok" if (await p.client.get_object_tagging(**at))["TagSet"] == wanted else "forgotten"


async def lifecycle(p: Probed) -> str:
    rule: dict[str, Any] = {"ID": "a", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 3}}
    rule["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": 1}
    rules = {"Rules": [rule]}
    return await outcome(p.client.put_bucket_lifecycle_configuration(Bucket=p.bucket, LifecycleConfiguration=rules))


async def metadata(p: Probed) -> str:
    at = p.at()
    wanted = {"long": "x" * 1500}
    headers: dict[str, Any] = {"ContentType": "text/x-own", "CacheControl": "max-age=1", "ContentEncoding": "gzip"}
    await p.put(at, Metadata=wanted, **headers)
    head = await p.client.head_object(**at)
    lost = [name for name, value in headers.items() if head.get(name) != value]
    return "; ".join([*lost, *([] if head["Metadata"] == wanted else ["Metadata"])]) or "ok"


async def metadata_beyond_ascii(p: Probed) -> str:
    return await _refusal(p.client.put_object(**p.at(), Body=b"1", Metadata={"a": "ü"}))


async def versioning(p: Probed) -> str:
    bucket = await asyncio.to_thread(p.service.new_bucket)
    status = {"Status": "Enabled"}
    return await outcome(p.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=status))


async def missing_bucket(p: Probed) -> str:
    none = p.service.unused_name()
    get, head = p.client.get_object(Bucket=none, Key="a"), p.client.head_bucket(Bucket=none)
    again = p.client.create_bucket(Bucket=p.bucket)
    return f"get {await outcome(get)}; head {await outcome(head)}; made again {await outcome(again)}"


# Bodies on their way


async def stream_of_known_length(p: Probed) -> str:
    at = p.at()
    async with connected(p.service, signed_payload=False, parameter_validation=False) as client:
        await client.put_object(**at, Body=_ten_pieces(), ContentLength=10_000)
    return "ok" if await p.get(at) == b"x" * 10_000 else "damaged"


async def body_with_an_async_read(p: Probed) -> str:
    class Body:
        async def read(self, amount: int = -1) -> bytes:
            return b""

    async with connected(p.service, signed_payload=False, parameter_validation=False) as client:
        return await _refusal(client.put_object(**p.at(), Body=Body(), ContentLength=0))


async def chunked_without_length(p: Probed) -> str:
    return await p.ask("PUT", await p.url("put_object", p.at()), data=_ten_pieces())


async def writer_dies_in_an_overwrite(p: Probed) -> str:
    at = p.at()
    await p.put(at, b"old" * 1000)
    url = await p.url("put_object", at)
    _, writer = await asyncio.open_connection("127.0.0.1", p.service.port)
    head = f"PUT {url.raw_path_qs} HTTP/1.1\r\nHost: 127.0.0.1:{p.service.port}\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + b"n" * 500_000)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    return "old" if await p.get(at) == b"old" * 1000 else "torn"


async def readers_during_overwrites(p: Probed) -> str:
    at, torn, writing = p.at(), 0, True
    await p.put(at, b"0" * 300_000)

    async def write() -> None:
        nonlocal writing
        try:
            for n in range(10):
                await p.put(at, b"%d" % n * 300_000)
        finally:
            writing = False

    async def read() -> None:
        nonlocal torn
        while writing:
            with contextlib.suppress(aiohttp.ClientPayloadError):  # broken off is not torn: nobody takes it for whole
                body = await p.get(at)
                torn += len(body) != 300_000 or len(set(body)) != 1

    await asyncio.gather(write(), *(read() for _ in range(3)))
    return f"{torn} torn"


# How listings look


async def last_modified(p: Probed) -> str:
    at = p.at()
    await p.put(at)
    head = (await p.client.head_object(**at))["LastModified"]
    (found,) = (await p.client.list_objects_v2(Bucket=p.bucket, Prefix=at["Key"]))["Contents"]
    same = head.replace(microsecond=0) == found["LastModified"].replace(microsecond=0)
    return f"HEAD {'fractions' if head.microsecond else 'seconds'}; {'same second' if same else 'else'} in LIST"


async def etag_in_list(p: Probed) -> str:
    at = p.at()
    tag = await p.put(at)
    (found,) = (await p.client.list_objects_v2(Bucket=p.bucket, Prefix=at["Key"]))["Contents"]
    assert found["ETag"].strip('"') == tag
    return "quoted" if found["ETag"].startswith('"') else "unquoted"


async def _begin(p: Probed, at: dict[str, str], **more: Any) -> str:
    return str((await p.client.create_multipart_upload(**at, **more))["UploadId"])


async def _part(p: Probed, at: dict[str, str], upload: str, number: int, body: bytes) -> dict[str, Any]:
    answer = await p.client.upload_part(**at, UploadId=upload, PartNumber=number, Body=body)
    return {"PartNumber": number, "ETag": answer["ETag"]}


async def _complete(p: Probed, at: dict[str, str], upload: str, parts: Any) -> None:
    await p.client.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": list(parts)})


async def _refusal(call: Any) -> str:
    """What the client itself raised."""
    try:
        return await outcome(call)
    except (BotoCoreError, TypeError, ValueError) as error:
        return type(error).__name__


async def _ten_pieces() -> AsyncIterator[bytes]:
    for _ in range(10):
        yield b"x" * 1000
