# Shared by ci/test and the lanes; sourced, not run. bash.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
export OTTLA_CACHE="${OTTLA_CACHE:-$ROOT/.cache}"
export OTTLA_OUT="${OTTLA_OUT:-$ROOT/target/ci-out}"
mkdir -p "$OTTLA_CACHE" "$OTTLA_OUT"
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0 RUST_BACKTRACE=1
# One profile for everything that runs: dependencies optimised, assertions and overflow checks on. OTTLA_PROFILE=dev compiles
# three times as fast and runs slower.
OTTLA_PROFILE="${OTTLA_PROFILE:-ci}"
PROFILE=(--profile "$OTTLA_PROFILE" --locked)

# A directory of this lane's own, removed when it ends; what `at_exit` was given runs first, last one first.
SCRATCH="$(mktemp -d "${TMPDIR:-/tmp}/ottla-lane-XXXXXX")"
EXIT_STEPS=()
at_exit() { EXIT_STEPS=("$*" ${EXIT_STEPS[@]+"${EXIT_STEPS[@]}"}); }
finish() {
  local status=$? step
  trap - EXIT INT TERM
  for step in ${EXIT_STEPS[@]+"${EXIT_STEPS[@]}"}; do eval "$step" || true; done
  rm -rf "$SCRATCH"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# need COMMAND DEBIAN_PACKAGE...: installs the packages unless the command is there.
need() {
  local command="$1"
  shift
  command -v "$command" >/dev/null && return
  echo "installing $* for $command"
  (flock 9
   command -v "$command" >/dev/null && exit 0
   export DEBIAN_FRONTEND=noninteractive
   apt=(apt-get -qq -o Acquire::Retries=3)
   "${apt[@]}" update && "${apt[@]}" -y --no-install-recommends install "$@" >/dev/null) 9>/tmp/ottla-apt.lock
  command -v "$command" >/dev/null || { echo "no $command after installing $*"; return 1; }
}
need_java() { need javac openjdk-17-jdk-headless && need mvn maven; }

# The first core that this process may use.
first_core() { python3 -c 'import os; print(min(os.sched_getaffinity(0)))'; }

# The `ottla` program as CI tests it.
OTTLA="$ROOT/target/${OTTLA_PROFILE/#dev/debug}/ottla"
build_ottla() { cargo build "${PROFILE[@]}" --all-features --bin ottla; }

# The name of every tests/NAME.rs that the given glob picks.
test_targets() { (cd tests && for file in $1; do [ -e "$file" ] && basename "$file" .rs; done) || true; }

# start_kafka NODES [ARGS...]: a real broker for this lane; sets KAFKA_BOOTSTRAP and KAFKA_DATA.
start_kafka() {
  local nodes="$1"
  shift
  need_java
  at_exit "'$ROOT/ci/kafka' stop --dir '$SCRATCH/kafka'"
  "$ROOT/ci/kafka" start --nodes "$nodes" --dir "$SCRATCH/kafka" "$@" >"$SCRATCH/kafka.env"
  # shellcheck disable=SC1091
  . "$SCRATCH/kafka.env"
  echo "kafka: $nodes node(s) at $KAFKA_BOOTSTRAP"
}

# start_program NAME PATTERN COMMAND...: a server of this lane's own, stopped by its pid at the end. Waits until its
# output has a line that matches, or it ended. Output: $SCRATCH/NAME.out; pid: PROGRAM_PID; that line: PROGRAM_SAID.
start_program() {
  local name="$1" pattern="$2"
  shift 2
  mkfifo "$SCRATCH/$name.ready"
  # grep ends at the first match; the rest of the output goes on into the file.
  "$@" > >(tee -p "$SCRATCH/$name.out" | { grep -m1 -- "$pattern" || echo; } >"$SCRATCH/$name.ready") 2>&1 &
  PROGRAM_PID=$!
  at_exit "kill $PROGRAM_PID 2>/dev/null; wait $PROGRAM_PID 2>/dev/null"
  PROGRAM_SAID=
  read -r -t "${PROGRAM_SECONDS_MAX:-60}" PROGRAM_SAID <"$SCRATCH/$name.ready" || true
  [ -n "$PROGRAM_SAID" ] || { echo "$name did not start"; cat "$SCRATCH/$name.out"; return 1; }
}
