# shellcheck shell=bash
# Pythons of the tests' own, each with the packages of a file: the client SDKs of tests/clients, of which two versions
# need two, and what tries the service by its OpenAPI document. Made once, and again when that file changes.

provide_python() {
  export TEST_PYTHON=$PWD/target/test-venv/bin/python
  export TEST_PYTHON_0X=$PWD/target/test-venv-0x/bin/python
  export TEST_PYTHON_OPENAPI=$PWD/target/test-venv-openapi/bin/python
  provide_environment target/test-venv tests/clients/requirements.txt
  provide_environment target/test-venv-0x tests/clients/requirements-0x.txt
  provide_environment target/test-venv-openapi tests/openapi/requirements.txt
}

# provide_environment FOLDER REQUIREMENTS
provide_environment() {
  local folder=$PWD/$1 wanted=$2 python
  # The copy is written last, so that it vouches for a whole installation.
  if cmp -s "$wanted" "$folder/requirements.txt" && "$folder/bin/python" -c '' 2>/dev/null; then
    return
  fi
  python=$(find_python) || {
    install_packages 'Python 3.10 or later with its venv module' python3-venv
    python=$(find_python) || die 'this system has no Python 3.10 or later; please install one'
  }
  say "installing what $wanted lists into $1"
  rm -rf "$folder"
  mkdir -p "$(dirname "$folder")"
  "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r "$wanted" </dev/null
  cp "$wanted" "$folder/requirements.txt"
}

# The first Python that is new enough for the SDKs and can make an environment.
find_python() {
  local python check='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))'
  for python in python3 /usr/bin/python3; do
    if command -v "$python" >/dev/null && "$python" -c "$check" 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  return 1
}
