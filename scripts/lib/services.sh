# shellcheck shell=bash
# Postgres and Redis: those that are given, else those on the usual ports, else private ones that
# live as long as the tests. Tests make databases of their own inside the server.

postgres_bin=''
redis_pid=''

provide_postgres() {
  local url role
  if [[ -n ${TEST_DATABASE_URL:-} ]]; then
    check_postgres "$TEST_DATABASE_URL" ||
      die 'the Postgres of TEST_DATABASE_URL does not answer, or its role may not create databases'
    export TEST_DATABASE_URL
    return
  fi
  # Without psql nobody knows which role a server on the usual port lets in.
  if [[ -z ${TEST_PRIVATE_SERVICES:-} ]] && find_psql >/dev/null; then
    for role in "$(id -un)" postgres; do
      url="postgres://$role@127.0.0.1:5432/postgres"
      if check_postgres "$url" 2>/dev/null; then
        export TEST_DATABASE_URL=$url
        return
      fi
    done
  fi
  start_postgres
}

provide_redis() {
  local url=redis://127.0.0.1:6379
  # Some tests start one of their own, to kill it.
  command -v redis-server >/dev/null || install_packages redis-server redis-server
  if [[ -n ${TEST_REDIS_URL:-} ]]; then
    check_redis "$TEST_REDIS_URL" || die 'the Redis of TEST_REDIS_URL does not answer'
    export TEST_REDIS_URL
  elif [[ -z ${TEST_PRIVATE_SERVICES:-} ]] && check_redis "$url"; then
    export TEST_REDIS_URL=$url
  else
    start_redis
  fi
}

# Whether the role of this URL can sign in and may create databases; without psql, whether the port
# answers. Password files are left out, because the service does not read them either.
check_postgres() {
  local url=$1 psql allowed
  if ! psql=$(find_psql); then
    answers "$url" 5432
    return
  fi
  allowed=$(PGPASSFILE=/nonexistent PGCONNECT_TIMEOUT=5 "$psql" -X -w -A -t -d "$url" \
    -c 'select rolcreatedb or rolsuper from pg_roles where rolname = current_user') &&
    [[ $allowed == t ]]
}

# Whether something that is a Redis answers; it may ask for the password that the URL has.
check_redis() {
  if [[ $1 == rediss:* ]]; then
    answers "$1" 6379
  else
    answers "$1" 6379 'PING\r\n' && [[ $reply == +PONG* || $reply == -NOAUTH* ]]
  fi
}

# answers URL DEFAULT_PORT [GREETING]: whether the host and port of a URL take a connection. With a
# greeting, the first line that comes back is in `reply`.
answers() {
  local place=${1#*://}
  place=${place%%[/?]*}
  place=${place##*@}
  local host=${place%:*} port=$2
  [[ $place != *:* ]] || port=${place##*:}
  # shellcheck disable=SC2016 # the inner shell expands them
  reply=$(limited 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" || exit
    [[ -z $2 ]] || { printf "$2" >&3 && read -r -t 3 line <&3 && printf "%s" "$line"; }' \
    "${host:-127.0.0.1}" "$port" "${3:-}" 2>/dev/null)
}

limited() {
  if command -v timeout >/dev/null; then timeout "$@"; else "${@:2}"; fi
}

find_psql() {
  command -v psql || { find_postgres_bin && [[ -x $postgres_bin/psql ]] && echo "$postgres_bin/psql"; }
}

# Sets `postgres_bin` to the folder with the programs of the newest server installed.
find_postgres_bin() {
  local folder
  while read -r folder; do
    if [[ -x $folder/initdb && -x $folder/postgres && -x $folder/pg_ctl ]]; then
      postgres_bin=$folder
      return
    fi
  done < <(
    dirname "$(command -v pg_ctl)"
    printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV 2>/dev/null
  )
  return 1
}

start_postgres() {
  if ! find_postgres_bin; then
    can_install && forbid_main_cluster
    install_packages Postgres postgresql
    find_postgres_bin || die 'Postgres was installed, but its programs are not found'
  fi
  make_work_folder
  local port
  port=$(free_port)
  mkdir "$work/postgres"
  if ((EUID == 0)); then
    chown "$(postgres_owner)" "$work/postgres"
  fi
  # No file survives the tests, so nothing has to reach the disk.
  local options="-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c port=$port"
  options+=' -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200'
  local data=$work/postgres/data log=$work/postgres/log
  as_postgres "$postgres_bin/initdb" -D "$data" -U postgres -A trust -E UTF8 --locale=C -N \
    >"$work/initdb.log" 2>&1 || die "Postgres cannot be set up: $(<"$work/initdb.log")"
  as_postgres "$postgres_bin/pg_ctl" start -w -s -D "$data" -l "$log" -o "$options" ||
    die "Postgres does not start: $(<"$log")"
  export TEST_DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres"
}

# The server refuses to run as root.
as_postgres() {
  local owner
  # Not in the current folder, which that user may not be allowed to enter.
  if ((EUID != 0)); then
    (cd "$work" && "$@")
  elif owner=$(postgres_owner) && command -v setpriv >/dev/null; then
    (cd "$work" && setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups "$@")
  else
    (cd "$work" && runuser -u "$owner" -- "$@")
  fi
}

postgres_owner() {
  id -un postgres 2>/dev/null || echo nobody
}

# The Debian package would make and start a cluster of its own.
forbid_main_cluster() {
  local setting=/etc/postgresql-common/createcluster.d/no-main-cluster.conf
  passing_files+=("$setting")
  mkdir -p "${setting%/*}"
  echo 'create_main_cluster = false' >"$setting"
}

start_redis() {
  make_work_folder
  local port
  port=$(free_port)
  redis-server --bind 127.0.0.1 --port "$port" --save '' --appendonly no --dir "$work" \
    </dev/null >"$work/redis.log" 2>&1 &
  redis_pid=$!
  export TEST_REDIS_URL="redis://127.0.0.1:$port"
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    check_redis "$TEST_REDIS_URL" && return
    kill -0 "$redis_pid" 2>/dev/null || break
    sleep 0.1
  done
  die "Redis does not start: $(<"$work/redis.log")"
}

# A free port below those that the system hands out, so that no test can get it by chance.
free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)) && answers "http://127.0.0.1:$port" "$port"; do :; done
  echo "$port"
}

stop_services() {
  if [[ -n $redis_pid ]]; then
    kill -TERM "$redis_pid" 2>/dev/null || true
    wait "$redis_pid" 2>/dev/null || true
  fi
  if [[ -n $work && -e $work/postgres/data/postmaster.pid ]]; then
    as_postgres "$postgres_bin/pg_ctl" stop -w -s -m immediate -D "$work/postgres/data" || true
  fi
}
