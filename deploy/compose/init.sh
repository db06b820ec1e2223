#!/bin/sh
# Makes the repository with its keys, and both configurations; does nothing when that was done.
#
# /etc/walarchiver   what the daemon reads: configuration, S3 keys, its own writer key
# /custody           everything that `keys init` wrote: the custodians' keys open every backup
set -eu
umask 077
config=/etc/walarchiver
daemon_user=999:999

[ ! -e "$config/walarchiver.toml" ] || exit 0

repository() {
    cat <<TOML
[repository.main]
url = "s3://backups/walarchiver"
endpoint = "http://s3:8333"
allow_http = true   # the two containers share a network of their own
region = "us-east-1"
credentials_file = "$1"
TOML
}

# Each user gets an own copy of the S3 keys: a file that another user could change is refused.
for file in "$config/s3.toml" /custody/s3.toml; do
    printf 'access_key_id = "walarchiver"\nsecret_access_key = "%s"\n' "$S3_SECRET_KEY" >"$file"
done
{
    repository /custody/s3.toml
    echo '[cluster.main]'
} >/tmp/first.toml
# A bucket is the operator's to make: a missing one is more likely a misspelt one. Here we are the operator.
python - <<'PYTHON'
from pathlib import Path

from walarchiver.clock import SystemClock
from walarchiver.storage import S3Options
from walarchiver.storage.bucket import create_bucket
from walarchiver.storage.credentials import CredentialsFile

keys = CredentialsFile(Path("/custody/s3.toml"))
options = S3Options(endpoint="http://s3:8333", allow_http=True, credentials=keys)
create_bucket("backups", options, SystemClock(), versioned=True)
PYTHON
walarchiver --config /tmp/first.toml keys init --out /custody/keys --custodian first --custodian second

cp /custody/keys/writer.key "$config/writer.key"
root=$(sed -n 's/^root: //p' /custody/keys/writer.key)
{
    repository /custody/s3.toml
    printf 'identity = "/custody/keys/custodian-first.key"\n\n[cluster.main]\n'
} >"$config/reader.toml"
{
    printf '[server]\nlisten = "0.0.0.0:9187"\n\n'
    repository "$config/s3.toml"
    printf 'root = "%s"\nsigning_key = "%s/writer.key"\n' "$root" "$config"
    printf '\n[cluster.main]\ndsn = "host=/var/run/postgresql user=postgres dbname=postgres"\n'
    printf 'data_directory = "%s"\n' "$DATA_DIRECTORY"
} >"$config/new.toml"
chown "$daemon_user" "$config/s3.toml" "$config/writer.key"
chmod 0644 "$config/reader.toml" "$config/new.toml"
mv "$config/new.toml" "$config/walarchiver.toml"
