#!/usr/bin/env bash
# Three nodes, two hosts, and deaths: tells what happens and checks every claim. Uses a local cluster of its own, beside
# one that may be up, and leaves nothing behind. Exit code 0 = everything held.
set -euo pipefail
stratavore=$(realpath "$1")

own=$(mktemp -d /tmp/svf.XXXXXX)
export XDG_STATE_HOME=$own/state XDG_CONFIG_HOME=$own/config
unset STRATAVORE_CONTEXT STRATAVORE_CLUSTER
record=$own/state/stratavore/local/processes.json
frozen=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
tell() { printf '  %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
good() { printf '  \033[32mholds\033[0m: %s\n' "$*"; }

end() {
  local code=$?
  [ -n "$frozen" ] && kill -CONT "$frozen" 2>/dev/null || true
  "$stratavore" down --purge >"$own/down.log" 2>&1 || cat "$own/down.log" >&2
  rm -rf "$own"
  [ "$code" -eq 0 ] || printf 'error: the story did not hold (exit code %s)\nnext: make test\n' "$code" >&2
}
trap end EXIT

# field NAME: the first value of that name in JSON on stdin.
field() { sed -n "s/^ *\"$1\": *\"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" | sed -n 1p; }
runner() { "$stratavore" runners --all -o json | sed -n "/\"name\": *\"$1\"/,/^    }/p"; }
# Process id of a member (node-1, agent-2) as the supervisor knows it.
member() { sed -n "/\"name\": *\"$1\"/,/\"restarts\"/p" "$record" | field pid; }
# within SECONDS WHAT COMMAND…: repeats the command until it succeeds.
within() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt $until ] || fail "waited in vain until $what"
    sleep 0.1
  done
}
is_state() { [ "$(runner "$1" | field state)" = "$2" ]; }
# Lines "n K" count up by one from 0 without a gap.
whole() { tr -d '\r' <"$1" | awk '/^n [0-9]+$/ { if ($2 != seen) { exit 1 } seen++ } END { exit seen < 1 }'; }
grown() { [ -e "$1" ] && [ "$(wc -l <"$1")" -gt "$2" ]; }

say "A cluster: three nodes, two hosts, on this machine"
"$stratavore" up --nodes 3 --agents 2 2>&1 | sed 's/^/  /'
"$stratavore" new story --path "$own" >/dev/null 2>&1
"$stratavore" cluster status

say "1. The leader is killed (kill -9) under a runner that counts, watched by an attached client"
counting='n=0; while :; do echo "n $n"; n=$((n + 1)); sleep 0.01; done'
"$stratavore" launch story --name count --host agent-1 --detach -- sh -c "$counting" >/dev/null
"$stratavore" wait count --for running --timeout 60s >/dev/null 2>&1
child=$(runner count | field pid)
"$stratavore" attach count --observe --from-start >"$own/seen" 2>/dev/null </dev/null &
viewer=$!
within 20 "the client sees lines" grown "$own/seen" 100
leader=$("$stratavore" cluster status -o json | sed -n '/"items"/,$p' | grep -B3 '"role": *"leader"' | field address)
at=$("$stratavore" context list -o json | grep -n "\"$leader\"" | head -n 1 | cut -d: -f1)
first=$("$stratavore" context list -o json | grep -n '"endpoints"' | head -n 1 | cut -d: -f1)
name=node-$((at - first))
tell "$name leads ($leader); killing it"
kill -9 "$(member "$name")"
began=$(date +%s%N)
"$stratavore" launch story --name next --detach -- true >/dev/null
tell "the next launch was accepted $((($(date +%s%N) - began) / 1000000)) ms later, without anybody doing anything"
before=$(wc -l <"$own/seen")
within 30 "the client sees more lines" grown "$own/seen" $((before + 100))
[ "$(runner count | field pid)" = "$child" ] && kill -0 "$child" || fail "the runner is another process"
good "same process ($child), and the client was connected again by itself"
whole "$own/seen" || fail "the client lost or doubled a line"
good "$(grep -c '^n ' "$own/seen") lines, none lost, none doubled"

say "2. All three nodes are killed at once"
launched=$("$stratavore" runners --all -o json | grep -c '"id"')
kill -9 "$(member node-1)" "$(member node-2)" "$(member node-3)" 2>/dev/null || true
kill -0 "$child" || fail "the runner died with the nodes"
tell "the runner goes on; the supervisor brings the nodes back"
healthy() { "$stratavore" --timeout 2s cluster status 2>/dev/null | grep -q "stops nothing"; }
within 60 "all three nodes answer" healthy
within 60 "the runner is shown running" is_state count running
[ "$("$stratavore" runners --all -o json | grep -c '"id"')" = "$launched" ] || fail "a record is lost"
[ "$(runner count | field pid)" = "$child" ] || fail "the runner is another process"
good "every record is there, the same process runs, the agents came back by themselves"
before=$(wc -l <"$own/seen")
within 30 "the client sees more lines" grown "$own/seen" $((before + 100))
whole "$own/seen" || fail "the client lost or doubled a line"
good "still no line lost for the attached client"

say "3. A host falls silent for longer than its lease: one runner may be replaced, the other must be kept"
hold='exec sleep 100000'
"$stratavore" hosts cordon agent-1 >/dev/null
"$stratavore" launch story --name replace --on-disconnect stop --hold 15s --detach -- sh -c "$hold" >/dev/null
"$stratavore" launch story --name keep --on-disconnect keep --detach -- sh -c "$hold" >/dev/null
within 60 "both run on agent-2" is_state replace running
within 60 "both run on agent-2" is_state keep running
"$stratavore" hosts uncordon agent-1 >/dev/null
old=$(runner replace | field pid)
epoch=$(runner replace | field epoch)
kept=$(runner keep | field pid)
frozen=$(member agent-2)
tell "freezing the agent of agent-2: nobody there can renew its lease, and nobody tells its runners"
kill -STOP "$frozen"
moved() { [ "$(runner replace | field host)" = agent-1 ] && is_state replace running; }
waited=$SECONDS
within 90 "the runner runs on agent-1" moved
tell "replaced after $((SECONDS - waited)) s"
if kill -0 "$old" 2>/dev/null; then fail "the old incarnation still lives"; fi
good "the old incarnation (epoch $epoch) was dead before the new one (epoch $(runner replace | field epoch)) started"
within 30 "the kept one is shown lost" is_state keep lost
kill -0 "$kept" || fail "the kept runner died"
good "the kept runner is shown lost, lives on, and is not started twice"
kill -CONT "$frozen"
frozen=
within 60 "the kept one is back" is_state keep running
[ "$(runner keep | field pid)" = "$kept" ] || fail "the kept runner is another process"
good "its host is heard again: the same process is shown running"

kill "$viewer" 2>/dev/null || true
say "Everything held."
