# 4 files of 1 GiB, copied for the first time between two hosts: ours against rsync over ssh, and on a disk two `cp -a` side by side.
# `--scale N`: MiB of each file. `--only tmpfs` or `ext4`.
row=files-big
runs=5
. bench/lib.sh
. bench/hosts.sh
. bench/first-copy.sh
island
programs=$PWD/build/release/bin
cd "$BENCH_WORK"
: "${scale:=1024}"

for medium in tmpfs ext4; do
  [[ $medium = ${only:-$medium} ]] || continue
  start_hosts $medium $((scale * 5 + 500))M
  "$programs/bench-files" make old/tree --count 4 --size $((scale << 20)) --folder 2
  start_agent old && start_agent new
  compare_copies "4 x $scale MiB" $medium "ratio 2"
  stop_hosts
done
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
