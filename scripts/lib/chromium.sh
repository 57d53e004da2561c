# shellcheck shell=bash
# Chromium, for the tests of the pages: the one that is there, else Debian's.

provide_chromium() {
  TEST_CHROMIUM=$(find_chromium) || {
    install_packages 'Chromium' chromium
    TEST_CHROMIUM=$(find_chromium) || die 'chromium was installed, but its program is not found'
  }
  export TEST_CHROMIUM
}

# The first that runs. What is called chromium-browser may be a mere hint at another package.
find_chromium() {
  local program
  for program in chromium chromium-browser google-chrome google-chrome-stable /usr/bin/chromium; do
    if program=$(command -v "$program") && limited 30 "$program" --version >/dev/null 2>&1; then
      echo "$program"
      return
    fi
  done
  return 1
}
