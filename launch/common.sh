# shellcheck shell=bash
# What the launch scripts share; sourced by them.

# The run's exit statuses that a launcher must tell apart; any other failure may be tried again.
# shellcheck disable=SC2034
readonly DONE=0 MISTAKE=2 RESUME_ME=75  # 75 is EX_TEMPFAIL: saved, start the same command again

fail() {
  echo "error: $*" >&2
  exit "$MISTAKE"
}

# Runs a command, or with DRY_RUN=1 prints it, quoted as a shell would take it.
run() {
  if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    "$@"
  fi
}

# require_tool NAME HOW_TO_GET_IT: a dry run needs no tools.
require_tool() {
  [ -n "${DRY_RUN:-}" ] || command -v "$1" > /dev/null || fail "$1 is not installed: $2"
}

# require_variable NAME EXAMPLE
require_variable() {
  [ -n "${!1:-}" ] || fail "the variable $1 is missing: set it as in $1=$2"
}

# The flags that every run needs, asked for before a machine is.
require_flags() {
  local name
  for name in --config --workdir; do
    [[ " $* " =~ [[:space:]]${name}[=[:space:]] ]] || fail "$name is missing: the flags are those of moonshine_jax.main"
  done
}

# The path of a Python that is new enough, installed by uv: a cloud's images have an older one.
recent_python() {
  python3 -m pip install --quiet --user uv >&2
  python3 -m uv python install --quiet 3.12 >&2
  python3 -m uv python find --no-project 3.12
}
