# shellcheck shell=bash
# A Python of the tests' own, with the client SDKs of tests/clients/requirements.txt. Made once, and
# again when that file changes.

provide_python() {
  local wanted=tests/clients/requirements.txt folder=$PWD/target/test-venv python
  export TEST_PYTHON=$folder/bin/python
  # The copy is written last, so that it vouches for a whole installation.
  if cmp -s "$wanted" "$folder/requirements.txt" && "$TEST_PYTHON" -c '' 2>/dev/null; then
    return
  fi
  python=$(find_python) || {
    install_packages 'Python 3.10 or later with its venv module' python3-venv
    python=$(find_python) || die 'this system has no Python 3.10 or later; please install one'
  }
  say 'installing the client SDKs into target/test-venv'
  rm -rf "$folder"
  mkdir -p "$(dirname "$folder")"
  "$python" -m venv "$folder"
  "$TEST_PYTHON" -m pip install --quiet --disable-pip-version-check --no-input -r "$wanted" </dev/null
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
