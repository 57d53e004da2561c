# shellcheck shell=bash
# The service's database for scripts/backup and scripts/restore, whichever of the two kinds it is.

kind=''        # sqlite or postgres
sqlite_file=''

# Finds the database as the service's settings name it. A password goes into the environment, not into a list of processes.
connect() {
  local url=${BEDROCK_DATABASE__URL:-}
  if [[ -n ${BEDROCK_DATABASE__URL_FILE:-} ]]; then url=$(<"$BEDROCK_DATABASE__URL_FILE"); fi
  url=${url:-sqlite://./data/bedrock_sso.db}
  case $url in
    sqlite://*)
      kind=sqlite
      sqlite_file=${url#sqlite://}
      sqlite_file=${sqlite_file%%\?*}
      ;;
    postgres://* | postgresql://*)
      kind=postgres
      read_postgres_url "$url"
      ;;
    *) die 'the database must be sqlite://FILE or postgres://USER:PASSWORD@HOST/NAME' ;;
  esac
}

need_tools() {
  if [[ $kind == sqlite ]]; then
    command -v sqlite3 >/dev/null || die 'sqlite3 is needed; please install it (Debian: apt-get install sqlite3)'
  else
    command -v pg_dump >/dev/null || die 'pg_dump is needed, not older than the server; please install it (Debian: apt-get install postgresql-client)'
  fi
}

read_postgres_url() {
  local url=$1 pair
  [[ $url =~ ^postgres(ql)?://(([^:@/]*)(:([^@/]*))?@)?(\[[^]]*\]|[^:/?]*)(:([0-9]+))?(/([^?]*))?(\?(.*))?$ ]] ||
    die 'the URL of the database cannot be read'
  PGUSER=$(decoded "${BASH_REMATCH[3]}")
  PGPASSWORD=$(decoded "${BASH_REMATCH[5]}")
  PGHOST=${BASH_REMATCH[6]//[\[\]]/}
  PGPORT=${BASH_REMATCH[8]:-5432}
  PGDATABASE=$(decoded "${BASH_REMATCH[10]}")
  local query=${BASH_REMATCH[12]}
  export PGUSER PGPASSWORD PGHOST PGPORT PGDATABASE PGCONNECT_TIMEOUT=10 PGTZ=UTC
  [[ -n $PGPASSWORD ]] || unset PGPASSWORD
  # As the service does: TLS, verified, to any host but this one.
  case $PGHOST in
    localhost | 127.* | ::1 | '' | /*) ;;
    *)
      if [[ ${BEDROCK_DATABASE__ALLOW_PLAINTEXT:-false} != true ]]; then
        export PGSSLMODE=${PGSSLMODE:-verify-full} PGSSLROOTCERT=${PGSSLROOTCERT:-/etc/ssl/certs/ca-certificates.crt}
      fi
      ;;
  esac
  while read -r -d '&' pair; do
    if [[ $pair == sslmode=* ]]; then export PGSSLMODE=${pair#*=}; fi
  done <<<"$query&"
}

decoded() { printf '%b' "${1//%/\\x}"; }

journal_folder() {
  local beside=./data/journal
  if [[ $kind == sqlite ]]; then beside=$(dirname "$sqlite_file")/journal; fi
  echo "${BEDROCK_USAGE__JOURNAL_DIR:-$beside}"
}

# query SQL: rows as lines, columns parted by tabs; no text in them has tabs or line ends (JSON escapes both).
query() {
  if [[ $kind == sqlite ]]; then
    [[ -e $sqlite_file ]] || die "there is no database at $sqlite_file"
    sqlite3 -batch -bail -cmd '.timeout 30000' -separator $'\t' "$sqlite_file" "$1"
  else
    psql -X -q -w -v ON_ERROR_STOP=1 -A -t -F $'\t' -c "$1"
  fi
}

# dump FOLDER: the database as it is at one moment.
dump() {
  if [[ $kind == sqlite ]]; then
    [[ -e $sqlite_file ]] || die "there is no database at $sqlite_file"
    sqlite3 -batch -bail -cmd '.timeout 30000' "$sqlite_file" "VACUUM INTO '${1//\'/\'\'}/database.sqlite3'"
  else
    pg_dump -w --format=custom --no-owner --no-acl --file="$1/database.dump"
  fi
}

# The newest audit event that the dump in FOLDER holds: what is newer has to be done again after it is restored.
newest_in_dump() {
  if [[ $kind == sqlite ]]; then
    sqlite3 -batch -bail "$1/database.sqlite3" 'SELECT last_id FROM audit_chain'
  else
    pg_restore --data-only --table=audit_chain --file=- "$1/database.dump" |
      awk -F '\t' '/^COPY /{ split($0, part, /[(),]/); for (i in part) { gsub(/[" ]/, "", part[i]); if (part[i] == "last_id") column = i - 1 }; rows = 1; next }
                   /^\\\.$/ { rows = 0 } rows { print $column }'
  fi
}
