# shellcheck shell=bash
# Node, and the client SDKs of tests/clients/typescript. What is missing is installed below target: once, and
# again when the lock changes.

provide_node() {
  local sources=tests/clients/typescript folder=$PWD/target/test-node npm=npm
  export TEST_NODE=node TEST_NODE_MODULES=$folder/node_modules
  if ! is_node_new_enough; then
    # Distributions may have older ones; among Python's packages is one for every system.
    provide_environment target/test-venv-node tests/clients/requirements-node.txt
    TEST_NODE=$PWD/target/test-venv-node/bin/node
    npm=$PWD/target/test-venv-node/bin/npm
  fi
  # The copy is written last, so that it vouches for a whole installation.
  if cmp -s "$sources/package-lock.json" "$folder/installed.json"; then
    return
  fi
  say 'installing the client SDKs into target/test-node'
  rm -rf "$folder"
  mkdir -p "$folder"
  cp "$sources"/package{,-lock}.json "$folder"
  "$npm" ci --prefix "$folder" --ignore-scripts --omit=dev --no-audit --no-fund --loglevel=error </dev/null >/dev/null
  cp "$sources/package-lock.json" "$folder/installed.json"
}

# Whether there is a Node that the SDK supports, with npm.
is_node_new_enough() {
  command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null
}
