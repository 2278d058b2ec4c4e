# Two hosts for the rows files-*: network and mount namespaces joined by a cable, each with its own file system, an agent, and on new
# an sshd for the peer. Sourced after bench/lib.sh; everything lies below the working directory and goes with it.
address_old=10.99.0.1 address_new=10.99.0.2
declare -A host_pid agent_pid

# start_hosts MEDIUM SIZE: tmpfs (data and what the agents keep in memory) or ext4 (an image on this machine's disk for each).
start_hosts() {
  local host
  for host in old new; do
    mkdir -p $host
    if [ "$1" = tmpfs ]; then
      mount -t tmpfs -o "size=$2,mode=755" none $host
    else
      truncate -s "$2" $host.img
      mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 $host.img
      mount -o loop $host.img $host
      rmdir $host/lost+found
    fi
    mkdir -p $host/{tree,lib,run}
    unshare --net --mount sh -c 'mount -t tmpfs none /var/lib && mkdir /var/lib/midstream && mount --bind "$0/lib" /var/lib/midstream && mount -t tmpfs none /run &&
      mkdir /run/midstream /run/sshd && mount --bind "$0/run" /run/midstream && mount --bind "$0/tree" /srv && touch "$0/up" && exec sleep infinity' "$PWD/$host" &
    host_pid[$host]=$!
    wait_until [ -e $host/up ]
  done
  ip link add old netns "${host_pid[old]}" type veth peer name new netns "${host_pid[new]}"
  for host in old new; do
    local address=address_$host
    on $host ip link set lo up
    on $host ip link set $host up
    on $host ip addr add "${!address}/24" dev $host
  done
  start_sshd
}
stop_hosts() {
  local host
  for host in old new; do
    stop_agent $host
    [ $host = old ] || { kill "$sshd"; wait "$sshd" 2>/dev/null || true; }
    kill "${host_pid[$host]}"
    wait "${host_pid[$host]}" 2>/dev/null || true
    umount $host
    rm -rf $host $host.img
  done
}
# wait_until COMMAND...: for 20 seconds.
wait_until() {
  local n
  for n in $(seq 400); do
    "$@" 2>waited && return
    sleep 0.05
  done
  say "in vain: $*: $(cat waited)"
  return 1
}
on() { nsenter -t "${host_pid[$1]}" --net --mount -- "${@:2}"; }

start_sshd() {
  mkdir -p ssh
  chmod 700 ssh
  [ -e ssh/key ] || { ssh-keygen -q -t ed25519 -N '' -f ssh/key; ssh-keygen -q -t ed25519 -N '' -f ssh/host; }
  printf 'HostKey %s\nAuthorizedKeysFile %s\nPidFile none\nUsePAM no\nStrictModes no\nListenAddress %s\n' "$PWD/ssh/host" "$PWD/ssh/key.pub" $address_new >ssh/sshd
  printf '%s %s\n' $address_new "$(cut -d' ' -f1,2 ssh/host.pub)" >ssh/known
  printf 'IdentityFile %s\nUserKnownHostsFile %s\nBatchMode yes\n' "$PWD/ssh/key" "$PWD/ssh/known" >ssh/client
  nsenter -t "${host_pid[new]}" --net --mount -- /usr/sbin/sshd -D -f "$PWD/ssh/sshd" -E "$PWD/ssh/log" &
  sshd=$!
  wait_until on old ssh -F "$PWD/ssh/client" root@$address_new true
}

start_agent() {
  local host=$1 address=address_$1
  rm -f "$host/run/bench.sock"  # of one that was ended
  nsenter -t "${host_pid[$host]}" --net --mount -- ${agent_under:-} "$programs/midstream-agent" serve --move bench --host "$host" --data "${!address}" >"$host/log" 2>&1 &
  agent_pid[$host]=$!
  wait_until [ -S "$host/run/bench.sock" ]
}
stop_agent() {
  [ -n "${agent_pid[$1]:-}" ] || return 0
  kill "${agent_pid[$1]}"
  wait "${agent_pid[$1]}" 2>/dev/null || true
  agent_pid[$1]=
}
# drive ACT [--until WORD]: one JSON line.
drive() { "$programs/bench-files" "$1" --old "$PWD/old/run/bench.sock" --new "$PWD/new/run/bench.sock" --path /srv "${@:2}"; }
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"; }
seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.3f\n", b - a}'; }

# The same metadata as ours; then new's file system is synced, as ours is when it says that it is done.
rsync_tree() { on old rsync -aHAX --numeric-ids "$@" -e "ssh -F $PWD/ssh/client" /srv/ root@$address_new:/srv/; }
rsync_name="$(rsync --version | sed -n 's/^rsync *version \([0-9.]*\).*/rsync \1/p') -aHAX over ssh"

empty_new() { find new/tree -mindepth 1 -maxdepth 1 -exec rm -rf {} +; }
# Nothing is waiting to be written when a run begins.
settle() { sync -f old/tree && sync -f new/tree; }
# By a third program, content too; what it prints is different.
differences() { rsync -aHAX --numeric-ids -n -i --checksum --delete --exclude /.midstream old/tree/ new/tree/; }
