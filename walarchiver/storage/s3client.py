"""The only place that talks to botocore's machinery: configured, bounded clients, keys and addresses.

Rules:
- botocore never asks twice by itself: `retry.py` decides that, with our clock and budget.
- Proxies of the environment are used for other hosts, never for loopback.
- Every body travels with a checksum header (see `s3.py`). So over TLS, and on loopback, the
  signature leaves the body's SHA-256 out: hashing it would cost more than all the rest of a PUT.
- Where a bucket's objects are asked for, and which region signs, botocore decides; it is asked once
  (`object_address`), so requests of our own go where its would.
- botocore's debug output holds session tokens, so its loggers are kept above DEBUG.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import botocore.config
import botocore.credentials
import botocore.httpsession
import botocore.loaders
import botocore.session

from walarchiver.errors import StoreDenied
from walarchiver.ports import Clock
from walarchiver.storage.botocoreerrors import LIBRARY_ERRORS
from walarchiver.storage.credentials import KeyChain, Keys, PlatformRole
from walarchiver.storage.options import Addressing, S3Options
from walarchiver.storage.s3access import USUAL_REGION, ObjectAddress
from walarchiver.storage.s3answers import explained

Reply = Mapping[str, object]

_ANY_KEY = "k"


class S3Calls(Protocol):
    """The requests we make, as botocore's generated client offers them."""

    def put_object(self, **request: object) -> Reply: ...
    def get_object(self, **request: object) -> Reply: ...
    def delete_object(self, **request: object) -> Reply: ...
    def list_objects_v2(self, **request: object) -> Reply: ...
    def list_object_versions(self, **request: object) -> Reply: ...
    def head_object(self, **request: object) -> Reply: ...
    def get_object_tagging(self, **request: object) -> Reply: ...
    def restore_object(self, **request: object) -> Reply: ...
    def copy_object(self, **request: object) -> Reply: ...
    def create_multipart_upload(self, **request: object) -> Reply: ...
    def upload_part(self, **request: object) -> Reply: ...
    def upload_part_copy(self, **request: object) -> Reply: ...
    def complete_multipart_upload(self, **request: object) -> Reply: ...
    def abort_multipart_upload(self, **request: object) -> Reply: ...
    def create_bucket(self, **request: object) -> Reply: ...
    def delete_bucket(self, **request: object) -> Reply: ...
    def put_bucket_versioning(self, **request: object) -> Reply: ...
    def get_bucket_versioning(self, **request: object) -> Reply: ...
    def get_bucket_lifecycle_configuration(self, **request: object) -> Reply: ...
    def close(self) -> None: ...

    @property
    def meta(self) -> object: ...


class Body(Protocol):
    """The streamed body of a GET."""

    def read(self, amt: int) -> bytes: ...
    def readinto(self, view: memoryview) -> int: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _FrozenKeys:
    access_key: str
    secret_key: str
    token: str | None
    account_id: None = None


class _ChainCredentials:
    """botocore's idea of credentials, answered from a KeyChain before every signature."""

    method = "walarchiver"
    account_id = None

    def __init__(self, chain: KeyChain) -> None:
        self._chain = chain

    @property
    def access_key(self) -> str:
        return self._chain.current().access_key_id

    @property
    def secret_key(self) -> str:
        return self._chain.current().secret_access_key

    @property
    def token(self) -> str | None:
        return self._chain.current().session_token

    def get_frozen_credentials(self) -> _FrozenKeys:
        keys = self._chain.current()
        return _FrozenKeys(keys.access_key_id, keys.secret_access_key, keys.session_token)

    def get_deferred_property(self, name: str) -> object:
        return lambda: getattr(self, name)


class _ChainProvider:
    METHOD = "walarchiver"
    CANONICAL_NAME = None

    def __init__(self, chain: KeyChain) -> None:
        self._chain = chain

    def load(self) -> _ChainCredentials:
        return _ChainCredentials(self._chain)


def connected(options: S3Options, clock: Clock) -> S3Calls:
    """A client for these options. Raises ConfigError, StoreDenied or StoreUnavailable."""
    options.check()
    client: S3Calls = connected_to("s3", options, clock, endpoint=options.endpoint, region=options.region)
    return client


def made(options: S3Options, clock: Clock, chain: KeyChain | None) -> tuple[S3Calls, Callable[[], Keys]]:
    """A client, and the keys that it signs with: those of `chain`, if there is one. Raises as `connected`.

    `head_object` of this client makes no request: see `object_address`.
    """
    session, keys = _session(options, clock, chain)
    client = _client(session, "s3", options, endpoint=options.endpoint, region=options.region)
    client.meta.events.register("before-call.s3.HeadObject", _told_address)
    return client, keys


def object_address(client: S3Calls, bucket: str) -> ObjectAddress:
    """Where botocore would ask now for an object; no request is made. Raises one of LIBRARY_ERRORS."""
    reply = client.head_object(Bucket=bucket, Key=_ANY_KEY)
    return ObjectAddress(
        url=str(reply["url"]).removesuffix(_ANY_KEY),
        region=str(reply["region"]),
        signature=str(reply["signature"]),
    )


def authorities_file() -> str:
    """The certificate authorities that botocore trusts."""
    return str(botocore.httpsession.get_cert_path(True))


def connected_to(
    service: str, options: S3Options, clock: Clock, *, endpoint: str | None, region: str | None
) -> Any:
    """A client of this service with the credentials, limits and CA of the options. Raises as `connected`."""
    session, _keys = _session(options, clock)
    return _client(session, service, options, endpoint=endpoint, region=region)


def _session(
    options: S3Options, clock: Clock, chain: KeyChain | None = None
) -> tuple[Any, Callable[[], Keys]]:
    for name in ("botocore", "boto3", "urllib3"):
        if logging.getLogger(name).getEffectiveLevel() < logging.INFO:
            logging.getLogger(name).setLevel(logging.INFO)
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader())
    if not isinstance(options.credentials, PlatformRole):
        chain = chain or KeyChain(options.credentials, clock)
        session.register_component(
            "credential_provider",
            botocore.credentials.CredentialResolver(providers=[_ChainProvider(chain)]),
        )
        return session, chain.current
    try:
        credentials = session.get_credentials()
    except LIBRARY_ERRORS as failure:
        raise explained("open the object store", failure) from failure
    if credentials is None:
        raise StoreDenied(
            "no credentials were found for the object store",
            hint="Set `credentials_file` or `credentials_command`, or give this host a role.",
        )

    def current() -> Keys:
        frozen = credentials.get_frozen_credentials()
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token or None)
        for part in (keys.access_key_id, keys.secret_access_key, keys.session_token or ""):
            if not part.isascii() or any(char.isspace() for char in part):
                raise StoreDenied(
                    "the credentials of this platform hold characters that no key has",
                    hint="Look at AWS_ACCESS_KEY_ID and its like in the environment, or at the profile.",
                )
        return keys

    return session, current


def _client(
    session: Any, service: str, options: S3Options, *, endpoint: str | None, region: str | None
) -> Any:
    try:
        return session.create_client(
            service,
            region_name=region or session.get_config_variable("region") or USUAL_REGION,
            endpoint_url=endpoint,
            verify=True if options.ca_file is None else str(options.ca_file),
            config=_config(options),
        )
    except LIBRARY_ERRORS as failure:
        raise explained("open the object store", failure) from failure


@dataclass(frozen=True, slots=True)
class _NotAsked:
    status_code: int = 200


def _told_address(params: Mapping[str, Any], context: Mapping[str, Any], **_: object) -> object:
    """In place of a request: where it would have gone, and how it would have been signed."""
    signing = context.get("signing") or {}
    told = {"url": params["url"], "region": signing.get("region"), "signature": context.get("auth_type")}
    return _NotAsked(), told


@cache
def _loader() -> object:
    """botocore's service descriptions, parsed once per process: they are most of a client's cost."""
    return botocore.loaders.create_loader()


def _config(options: S3Options) -> object:
    addressing = options.addressing
    if addressing is Addressing.AUTO:
        addressing = Addressing.VIRTUAL if options.endpoint is None else Addressing.PATH
    return botocore.config.Config(
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        max_pool_connections=options.pool_size,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True,
        account_id_endpoint_mode="disabled",
        user_agent_extra="walarchiver",
        proxies={} if options.is_loopback else None,
        s3={
            "addressing_style": addressing.value,
            "payload_signing_enabled": not (options.is_tls or options.is_loopback),
        },
    )
