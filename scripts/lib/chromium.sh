# shellcheck shell=bash
# Chromium, for the tests of the pages: the one that is given, else one that is there, else Debian's.

provide_chromium() {
  if [[ -n ${TEST_CHROMIUM:-} ]]; then
    is_chromium "$TEST_CHROMIUM" || die 'the program of TEST_CHROMIUM does not run'
    export TEST_CHROMIUM
    return
  fi
  TEST_CHROMIUM=$(find_chromium) || {
    install_packages Chromium chromium
    TEST_CHROMIUM=$(find_chromium) || die 'Chromium was installed, but it does not run'
  }
  export TEST_CHROMIUM
}

# The first that runs. What is called chromium-browser may be a mere hint at another package.
find_chromium() {
  local program
  for program in chromium chromium-browser google-chrome google-chrome-stable /usr/bin/chromium; do
    if program=$(command -v "$program") && is_chromium "$program"; then
      echo "$program"
      return
    fi
  done
  return 1
}

is_chromium() {
  limited 30 "$1" --version </dev/null >/dev/null 2>&1
}
