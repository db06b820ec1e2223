"""What may be configured for S3, and what may not: plain http, untrusted certificates, odd urls."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kit.chance import RealClock, SeededRandom
from tests.kit.faultproxy import FaultProxy
from tests.kit.s3 import S3Server
from walarchiver.errors import ConfigError, StoreDenied, StoreUnavailable, UsageError
from walarchiver.storage import S3Location, S3Options, open_store
from walarchiver.storage.credentials import CredentialsFile
from walarchiver.storage.directory import DirectoryStore
from walarchiver.storage.memory import MemoryStore
from walarchiver.storage.options import Addressing
from walarchiver.storage.retry import RetryPolicy
from walarchiver.storage.s3 import S3Store
from walarchiver.storage.s3access import Access, plain_address
from walarchiver.storage.s3bodies import crc_of


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://backups", "backups", ""),
        ("s3://backups/", "backups", ""),
        ("s3://backups/a/b", "backups", "a/b/"),
        ("s3://backups/a/b/", "backups", "a/b/"),
        ("s3://my.bucket-1/x", "my.bucket-1", "x/"),
    ],
)
def test_an_s3_url_names_a_bucket_and_a_prefix(url: str, bucket: str, prefix: str) -> None:
    location = S3Location.parse(url)
    assert (location.bucket, location.prefix) == (bucket, prefix)
    assert location.url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///a",
        "s3://Up",
        "s3://a",
        "s3://key:secret@bucket/a",
        "s3://bucket/a?x=1",
        "http://bucket/a",
    ],
)
def test_an_odd_s3_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        S3Location.parse(url)


def test_a_prefix_that_climbs_is_refused() -> None:
    with pytest.raises(UsageError):
        S3Location.parse("s3://bucket/a/../b")


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000", "https://s3.example.org"],
)
def test_these_endpoints_need_no_permission(endpoint: str) -> None:
    S3Options(endpoint=endpoint).check()


@pytest.mark.parametrize(
    "endpoint", ["http://10.0.0.1:9000", "http://minio:9000", "http://localhost.example.org"]
)
def test_plain_http_to_another_host_must_be_permitted(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="not encrypted"):
        S3Options(endpoint=endpoint).check()
    S3Options(endpoint=endpoint, allow_http=True).check()


@pytest.mark.parametrize(
    "endpoint", ["ftp://x", "s3.example.org", "https://", "https://u:p@x", "https://x/?a=b"]
)
def test_an_odd_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        S3Options(endpoint=endpoint).check()
    assert "u:p" not in caught.value.message


def test_bounds_and_files_are_checked_before_use(tmp_path: Path) -> None:
    for options in (
        S3Options(ca_file=tmp_path / "absent.pem"),
        S3Options(pool_size=0),
        S3Options(list_page_keys=0),
        S3Options(list_page_keys=1001),
    ):
        with pytest.raises(ConfigError):
            options.check()


def test_every_kind_of_url_opens_its_store(tmp_path: Path, s3_server: S3Server) -> None:
    def opened(url: str) -> object:
        return open_store(url, s3=s3_server.options(), clock=RealClock(), random=SeededRandom())

    assert isinstance(opened("s3://bucket/prefix"), S3Store)
    assert isinstance(opened("memory:"), MemoryStore)
    (tmp_path / "with space").mkdir()
    folder = opened(f"{tmp_path.as_uri()}/with%20space")
    assert isinstance(folder, DirectoryStore)
    assert folder.url == f"{tmp_path.as_uri()}/with%20space"
    for url in ("/plain/path", "file:relative", "file://otherhost/x", "https://x", "", "file:///x?y"):
        with pytest.raises(ConfigError):
            opened(url)


# --- TLS ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Certificate:
    ca_file: Path
    server: ssl.SSLContext


def made_certificate(folder: Path, address: str) -> Certificate:
    """A server certificate for `address` that only the file beside it vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's own CA")])
    now = datetime.datetime.fromtimestamp(RealClock().now_us() / 1e6, tz=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
        .sign(key, hashes.SHA256())
    )
    ca_file, key_file = folder / "ca.pem", folder / "key.pem"
    ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca_file, key_file)
    return Certificate(ca_file, context)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return made_certificate(tmp_path, "127.0.0.1")


def test_over_tls_with_its_own_ca_bodies_travel_unsigned_with_a_checksum(
    s3_server: S3Server, certificate: Certificate
) -> None:
    url = s3_server.store_url()
    with FaultProxy(s3_server.endpoint, tls=certificate.server) as proxy:
        options = s3_server.options(endpoint=proxy.endpoint, ca_file=certificate.ca_file)
        store = s3_server.open(url, options)
        store.put_new("v1/a", b"over tls")
        assert store.get("v1/a", bytes_max=100) == b"over tls"
        store.close()
        put = proxy.log[0]
    assert proxy.endpoint.startswith("https://")
    assert put.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    checksum = crc_of(b"over tls")
    assert put.headers[checksum.header] == checksum.value
    assert checksum.header in put.headers["authorization"]
    assert "content-encoding" not in put.headers


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(
    s3_server: S3Server, certificate: Certificate
) -> None:
    with FaultProxy(s3_server.endpoint, tls=certificate.server) as proxy:
        store = s3_server.open(s3_server.store_url(), s3_server.options(endpoint=proxy.endpoint))
        with pytest.raises(StoreDenied, match="not trusted"):
            store.get("v1/a", bytes_max=1)
        store.close()
        assert proxy.log == []


def test_a_certificate_for_another_host_is_refused(s3_server: S3Server, tmp_path: Path) -> None:
    other = made_certificate(tmp_path, "127.0.0.2")
    with FaultProxy(s3_server.endpoint, tls=other.server) as proxy:
        options = s3_server.options(endpoint=proxy.endpoint, ca_file=other.ca_file)
        store = s3_server.open(s3_server.store_url(), options)
        with pytest.raises(StoreDenied, match="not trusted"):
            store.put_new("v1/a", b"x")
        store.close()
        assert proxy.log == []


def test_there_is_no_option_that_turns_verification_off() -> None:
    names = set(S3Options.__dataclass_fields__)
    assert not {name for name in names if "verify" in name or "insecure" in name}


def test_addressing_decides_where_the_bucket_stands(s3_server: S3Server) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:
        once = s3_server.options(
            endpoint=proxy.endpoint.replace("127.0.0.1", "localhost"), retry=RetryPolicy(budget_s=0.0)
        )
        for addressing in (Addressing.AUTO, Addressing.PATH):
            store = s3_server.open("s3://no-such-bucket", replace(once, addressing=addressing))
            with pytest.raises(StoreDenied):
                store.get("v1/a", bytes_max=1)
            store.close()
        assert [seen.path for seen in proxy.log] == ["/no-such-bucket/v1/a"] * 2
        store = s3_server.open("s3://virtual", replace(once, addressing=Addressing.VIRTUAL))
        with pytest.raises(StoreUnavailable, match=r"http://virtual\.localhost:"):
            store.get("v1/a", bytes_max=1)
        store.close()


@pytest.mark.parametrize(
    ("bucket", "endpoint", "region", "addressing"),
    [
        ("bucket", "https://s3.example.com", "us-east-1", Addressing.AUTO),
        ("bucket", "https://s3.example.com/", "garage", Addressing.PATH),
        ("dotted.bucket.name", "https://s3.example.com:8443", "eu-central-1", Addressing.AUTO),
        ("bucket", "http://127.0.0.1:8333", "eu1", Addressing.PATH),
        ("bucket", "http://[::1]:8333", "us-east-1", Addressing.AUTO),
        ("bucket", "https://S3.Example.Com", "us-gov-west-1", Addressing.AUTO),
        ("bucket", "https://s3.eu-west-1.amazonaws.com", "eu-west-1", Addressing.AUTO),
    ],
)
def test_the_address_of_a_plain_configuration_is_the_one_that_botocore_has(
    s3_server: S3Server, bucket: str, endpoint: str, region: str, addressing: Addressing
) -> None:
    options = replace(s3_server.options(), endpoint=endpoint, region=region, addressing=addressing)
    access = Access(options, RealClock())
    assert plain_address(options, bucket) == access.address(bucket, afresh=True)
    access.close()


@pytest.mark.parametrize(
    ("bucket", "change"),
    [
        ("bucket", {"endpoint": None, "region": None}),
        ("dotted.bucket", {"endpoint": None}),
        ("bucket", {"endpoint": "https://s3.example.com/below"}),
        ("bucket", {"region": "aws-global"}),
        ("bucket", {"region": "us-east-1-fips"}),
        ("bucket", {"region": "fips-us-east-1"}),
        ("bucket", {"region": "a/b"}),
        ("bucket", {"addressing": Addressing.VIRTUAL}),
        ("bucket--use1-az1--x-s3", {}),
    ],
)
def test_what_only_botocore_knows_is_not_guessed(bucket: str, change: dict[str, Any]) -> None:
    options = S3Options(endpoint="https://s3.example.com", region="eu-west-1")
    assert plain_address(options, "bucket") is not None
    assert plain_address(replace(options, **change), bucket) is None


@pytest.mark.parametrize("addressing", [Addressing.AUTO, Addressing.PATH])
def test_the_address_of_every_region_of_aws_is_the_one_that_botocore_has(
    s3_server: S3Server, silent_aws: Path, addressing: Addressing
) -> None:
    guessed = []
    for partition in ("aws", "aws-us-gov", "aws-cn"):
        for region in botocore.session.get_session().get_available_regions("s3", partition_name=partition):
            options = s3_server.options(endpoint=None, region=region, addressing=addressing)
            plain = plain_address(options, "bucket")
            if plain is None:
                continue
            access = Access(options, RealClock())
            guessed.append(region)
            assert plain == access.address("bucket", afresh=True)
            access.close()
    assert {"us-east-1", "eu-central-1", "ap-southeast-2", "sa-east-1"} <= set(guessed)
    assert not {"us-gov-west-1", "cn-north-1"} & set(guessed)


@pytest.mark.parametrize("name", ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"])
def test_the_environment_s_wish_for_another_kind_of_address_is_obeyed(
    s3_server: S3Server, silent_aws: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "true")
    options = s3_server.options(endpoint=None, region="us-east-2")
    assert plain_address(options, "bucket") is None
    access = Access(options, RealClock())
    assert access.address("bucket").url != "https://bucket.s3.us-east-2.amazonaws.com/"
    access.close()


@pytest.fixture
def silent_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No settings of AWS's own tools; the credentials file that they would read, if it were there."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "credentials"


def test_where_no_region_is_named_the_usual_one_is_meant_unless_botocore_would_read_another(
    s3_server: S3Server, silent_aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = s3_server.options(region=None)
    plain = plain_address(options, "bucket")
    access = Access(options, RealClock())
    assert plain is not None
    assert plain == access.address("bucket", afresh=True)
    access.close()
    silent_aws.write_text("[default]\nregion = eu-west-3\n")
    assert plain_address(options, "bucket") is None
    access = Access(options, RealClock())
    assert access.address("bucket").region == "eu-west-3"
    access.close()
    silent_aws.unlink()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert plain_address(options, "bucket") is None


def test_the_ordinary_requests_of_a_plain_configuration_do_not_even_load_botocore(
    s3_server: S3Server,
) -> None:
    program = (
        "import sys; from pathlib import Path; from walarchiver.clock import SystemClock, SystemRandom\n"
        "from walarchiver.storage import S3Options, open_store\n"
        "from walarchiver.storage.credentials import CredentialsFile\n"
        "keys = CredentialsFile(Path(sys.argv[3]))\n"
        "options = S3Options(endpoint=sys.argv[2], region='us-east-1', credentials=keys)\n"
        "store = open_store(sys.argv[1], s3=options, clock=SystemClock(), random=SystemRandom())\n"
        "store.put_new('v1/a', b'body')\n"
        "assert store.get('v1/a', bytes_max=4) == b'body'\n"
        "assert [each.key for each in store.list_keys('v1/')] == ['v1/a']\n"
        "assert [each.size for each in store.list_versions('v1/')] == [4]\n"
        "store.close()\n"
        "print(*sys.modules)"
    )
    credentials = s3_server.options().credentials
    assert isinstance(credentials, CredentialsFile)
    ran = subprocess.run(
        [sys.executable, "-c", program, s3_server.store_url(), s3_server.endpoint, str(credentials.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "walarchiver.storage.s3direct" in ran.stdout.split()
    assert "botocore" not in ran.stdout.split()
