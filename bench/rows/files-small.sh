# 100,000 files of 4 KiB, and a tree of sources, copied for the first time between two hosts: ours against rsync over ssh, and on a disk
# two `cp -a` side by side. `--count N` files; `--only tmpfs`, `ext4` or `sources` (BENCH_SOURCES names the tree, /usr/src and
# /usr/include and /usr/share where it is not set).
row=files-small
runs=5
. bench/lib.sh
. bench/hosts.sh
. bench/first-copy.sh
island
programs=$PWD/build/release/bin
cd "$BENCH_WORK"
: "${count:=100000}"

for medium in tmpfs ext4; do
  [[ $medium = ${only:-$medium} ]] || continue
  start_hosts $medium 4G
  "$programs/bench-files" make old/tree --count "$count" --size 4096
  start_agent old && start_agent new
  compare_copies "$count x 4 KiB" $medium "ratio $([ $medium = tmpfs ] && echo 3 || echo 2)"
  stop_hosts
done
if [[ sources = ${only:-sources} ]]; then
  start_hosts tmpfs 8G
  for from in ${BENCH_SOURCES:-/usr/include /usr/share}; do cp -a "$from" old/tree/; done
  start_agent old && start_agent new
  compare_copies "$(find old/tree | wc -l) entries of ${BENCH_SOURCES:-/usr/include and /usr/share}" tmpfs "ratio 2"
  stop_hosts
fi
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
