// Real power cuts: the sending host's tree and state lie on an ext4 file system of their own, in an image behind a loop
// device, which is shut down without flushing its log (EXT4_IOC_SHUTDOWN), mounted anew and followed again.
#include <sys/ioctl.h>

#include "movers/files/testing.h"
#include "sys/child.h"

namespace midstream {
namespace {

using namespace files_testing;

std::int64_t wall_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

class FilesPowerCut : public Files {
 protected:
  void SetUp() override {
    Files::SetUp();
    if (IsSkipped()) return;
    options_.run = "run-1";
    image_ = base_ / "image";
    const Fd image(::open(image_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(image);
    ASSERT_EQ(::ftruncate(image.get(), 96 << 20), 0);
    tool({"mkfs.ext4", "-q", "-F", image_.string()});
    fs::create_directories(base_ / "disk");
    mount_image();
    if (HasFatalFailure() || IsSkipped()) return;
    fs::create_directories(base_ / "disk/tree");
    old_root_ = base_ / "disk/tree";
  }
  void tool(const std::vector<std::string>& argv) {
    const auto ran = run_child(argv, "", Deadline::in(30s));
    ASSERT_TRUE(ran) << ran.error().text();
    ASSERT_LE(ran->code, 1) << argv[0] << ": " << ran->out << ran->err;
  }
  // Without auto_da_alloc: as file systems are that do not write out what replaces something.
  void mount_image() {
    tool({"mount", "-t", "ext4", "-o", "loop,noauto_da_alloc", image_.string(), (base_ / "disk").string()});
    mounted_.insert(mounted_.begin(), base_ / "disk");
  }
  // Nothing that is not on the disk by now will ever be. The host comes up again, its agent does not yet.
  void cut_power() {
    to_new_->down = true;
    {
      const Fd root(::open((base_ / "disk").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      std::uint32_t without_log_flush = 2;
      ASSERT_EQ(::ioctl(root.get(), 0x8004587d, &without_log_flush), 0) << std::strerror(errno);  // EXT4_IOC_SHUTDOWN
    }
    old_->kill();
    to_new_->cut();
    to_old_->cut();
    ASSERT_EQ(::umount2((base_ / "disk").c_str(), 0), 0) << std::strerror(errno);
    mounted_.erase(mounted_.begin());
    tool({"e2fsck", "-p", image_.string()});
    mount_image();
    std::this_thread::sleep_for(20ms);  // the clock of time stamps is coarse: this run begins later than all before it
    old_->options().run = "run-2";
    old_->options().run_since_ns = wall_ns();
    std::this_thread::sleep_for(20ms);
  }
  void boot_again() {
    to_new_->down = false;
    old_->boot(*to_new_);
  }
  // What fsync of another file does to names: they are on the disk, and what was written to their files is not.
  void commit_names() {
    const Fd fd(::open((old_root_.parent_path() / "other").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ASSERT_EQ(::write(fd.get(), "x", 1), 1);
    ASSERT_EQ(::fsync(fd.get()), 0);
  }
  void start_following() {
    make_hosts();
    begin_follow();
    expect_reached(*old_, "new");
  }
  // All that was written so far is proven to be on old's disk.
  void prove() {
    barrier(*old_, "new");
    EXPECT_TRUE(eventually([&] { return seen(*old_, "new")["unproven"] == 0; })) << seen(*old_, "new").dump(1);
  }
  bool kept(Host& host, const std::string& content) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(host.state() / "trees/tree/conflicts", ignored)) {
      if (read_all(entry.path()) == content) return true;
    }
    return false;
  }
  void expect_everywhere(const std::string& name, const std::string& content) {
    EXPECT_TRUE(eventually([&] {
      return read_all(old_root_ / name) == content && read_all(new_->root() / name) == content;
    })) << name
        << ": " << read_all(old_root_ / name).substr(0, 100) << " and " << read_all(new_->root() / name).substr(0, 100)
        << seen(*old_, "new").dump(1);
  }

  fs::path image_;
};

const std::string kLarge(700 << 10, 'L');

TEST_F(FilesPowerCut, WhatWasCarriedOverAndNeverSyncedComesBack) {
  options_.source_checkpoint = 1h;
  fs::create_directories(old_root_ / "d");
  start_following();
  write_file(old_root_ / "d/emptied", "content of emptied");
  write_file(old_root_ / "d/large", kLarge);
  barrier(*old_, "new");
  commit_names();
  fs::create_directories(old_root_ / "d/new-directory/deep");
  write_file(old_root_ / "d/new-directory/deep/nameless", "content of nameless");
  barrier(*old_, "new");
  cut_power();
  EXPECT_EQ(fs::file_size(old_root_ / "d/emptied"), 0) << "the fault is not there: nothing would be proven";
  EXPECT_EQ(fs::file_size(old_root_ / "d/large"), 0) << "the fault is not there: nothing would be proven";
  EXPECT_FALSE(fs::exists(old_root_ / "d/new-directory")) << "the fault is not there: nothing would be proven";
  write_file(old_root_ / "d/after", "users write on");  // before the agent is back
  boot_again();
  expect_everywhere("d/emptied", "content of emptied");
  expect_everywhere("d/large", kLarge);
  expect_everywhere("d/new-directory/deep/nameless", "content of nameless");
  expect_everywhere("d/after", "users write on");
  barrier(*old_, "new");
  expect_equal();
  EXPECT_GE(seen(*old_, "new")["restored"].get<int>(), 3);
}

// A later version, carried over, of what both had: the cut takes old back to the earlier one, or to an empty one.
TEST_F(FilesPowerCut, AnEarlierVersionNeverReplacesTheLaterOne) {
  options_.source_checkpoint = 50ms;
  for (const auto* name : {"rewritten", "emptied", "grown", "in-place"}) write_file(old_root_ / name, "earlier-one");
  start_following();
  prove();
  to_new_->cut();
  options_.source_checkpoint = 1h;
  old_->kill();
  old_->options().source_checkpoint = 1h;
  old_->boot(*to_new_);
  expect_reached(*old_, "new");
  const auto rewrite = [&](const std::string& name) {
    fs::remove(old_root_ / name);
    write_file(old_root_ / name, "the later one");
  };
  rewrite("emptied");
  barrier(*old_, "new");
  commit_names();
  rewrite("rewritten");
  write_file(old_root_ / "grown", ", and later", O_APPEND);
  write_file(old_root_ / "in-place", "later--", 0);
  barrier(*old_, "new");
  cut_power();
  EXPECT_EQ(read_all(old_root_ / "rewritten"), "earlier-one") << "the fault is not there: nothing would be proven";
  EXPECT_EQ(read_all(old_root_ / "emptied"), "") << "the fault is not there: nothing would be proven";
  boot_again();
  expect_everywhere("rewritten", "the later one");
  expect_everywhere("emptied", "the later one");
  expect_everywhere("grown", "earlier-one, and later");
  expect_everywhere("in-place", "later---one");
  expect_equal();
}

// What nobody carried over and the cut has emptied does not replace what the other host has.
TEST_F(FilesPowerCut, AChangeThatTheCutEmptiedReplacesNothing) {
  options_.source_checkpoint = 50ms;
  write_file(old_root_ / "doc", "the good one");
  start_following();
  prove();
  to_new_->down = true;
  to_new_->cut();
  fs::remove(old_root_ / "doc");
  write_file(old_root_ / "doc", "never carried over");
  commit_names();
  cut_power();
  ASSERT_EQ(read_all(old_root_ / "doc"), "") << "the fault is not there: nothing would be proven";
  boot_again();
  expect_everywhere("doc", "the good one");
  expect_equal();
}

// Users' acts are not taken for the cut's: a removal of what is proven, a write before it that was synced, and a write
// after it.
TEST_F(FilesPowerCut, WhatUsersDidStands) {
  options_.source_checkpoint = 50ms;
  for (const auto* name : {"removed", "synced", "before", "after"}) write_file(old_root_ / name, "first");
  start_following();
  prove();
  to_new_->down = true;
  to_new_->cut();
  fs::remove(old_root_ / "removed");
  write_file(old_root_ / "synced", "synced, not carried over");
  {
    const Fd fd(::open((old_root_ / "synced").c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(::fsync(fd.get()), 0);
  }
  cut_power();
  ASSERT_FALSE(fs::exists(old_root_ / "removed"));
  write_file(old_root_ / "after", "written when the host was up again");
  boot_again();
  EXPECT_TRUE(eventually([&] { return !fs::exists(new_->root() / "removed"); })) << seen(*old_, "new").dump(1);
  EXPECT_TRUE(eventually([&] { return read_all(new_->root() / "synced") == "synced, not carried over"; }));
  EXPECT_TRUE(eventually([&] { return read_all(new_->root() / "after") == "written when the host was up again"; }));
  expect_equal();
  EXPECT_FALSE(fs::exists(old_root_ / "removed"));
  EXPECT_TRUE(kept(*old_, "first")) << "what the other host had is kept beside a version that nobody can vouch for";
}

// A removal that was carried over and that the cut has undone on old.
TEST_F(FilesPowerCut, ARemovalThatWasCarriedOverStaysOne) {
  options_.source_checkpoint = 50ms;
  fs::create_directories(old_root_ / "d");
  write_file(old_root_ / "d/removed", "first");
  write_file(old_root_ / "stays", "first");
  start_following();
  prove();
  old_->kill();
  to_new_->cut();
  old_->options().source_checkpoint = 1h;
  old_->boot(*to_new_);
  expect_reached(*old_, "new");
  fs::remove_all(old_root_ / "d");
  barrier(*old_, "new");
  ASSERT_FALSE(fs::exists(new_->root() / "d"));
  cut_power();
  ASSERT_TRUE(fs::exists(old_root_ / "d/removed")) << "the fault is not there: nothing would be proven";
  boot_again();
  EXPECT_TRUE(eventually([&] { return !fs::exists(old_root_ / "d"); })) << seen(*old_, "new").dump(1);
  EXPECT_FALSE(fs::exists(new_->root() / "d"));
  expect_equal();
}

// The agent is killed within the mending, again and again: the doubt outlives it.
TEST_F(FilesPowerCut, AnAgentKilledWhileItMendsGoesOnMending) {
  options_.source_checkpoint = 1h;
  start_following();
  for (int i = 0; i < 200; ++i) write_file(old_root_ / fmt::format("f{}", i), fmt::format("content of {}", i));
  barrier(*old_, "new");
  commit_names();
  cut_power();
  if (fs::file_size(old_root_ / "f7") != 0)
    GTEST_SKIP() << "the kernel wrote it out before the cut: nothing would be proven";
  old_->options().source_checkpoint = 1ms;
  for (int round = 0; round < 5; ++round) {
    boot_again();
    std::this_thread::sleep_for(round * 10ms);
    to_new_->down = true;
    old_->kill();
    to_new_->cut();
  }
  boot_again();
  for (int i = 0; i < 200; ++i) expect_everywhere(fmt::format("f{}", i), fmt::format("content of {}", i));
  expect_equal();
}

// Both hosts serve, and the one that was cut off has lost what users of the other wrote, and its own.
TEST_F(FilesPowerCut, BothWays) {
  options_.source_checkpoint = 1h;
  start_following();
  begin_reverse();
  expect_reached(*new_, "old");
  for (int i = 0; i < 20; ++i) {
    write_file(old_root_ / fmt::format("from-old-{}", i), "old");
    write_file(new_->root() / fmt::format("from-new-{}", i), "new");
  }
  barrier(*old_, "new");
  barrier(*new_, "old");
  commit_names();
  write_file(old_root_ / "last", "old");
  barrier(*old_, "new");
  cut_power();
  write_file(new_->root() / "meanwhile", "new");
  boot_again();
  for (int i = 0; i < 20; ++i) {
    expect_everywhere(fmt::format("from-old-{}", i), "old");
    expect_everywhere(fmt::format("from-new-{}", i), "new");
  }
  expect_everywhere("last", "old");
  EXPECT_TRUE(eventually([&] { return read_all(old_root_ / "meanwhile") == "new"; }));
  expect_equal();
}

// What users wrote on the other host arrived here and was never synced: it comes back with its size and its times, and
// nothing but zeros in it. The other host sends it again, and that must not pass for two users who wrote at once.
TEST_F(FilesPowerCut, WhatArrivedAndCameBackAsZerosIsNobodysVersion) {
  options_.source_checkpoint = 1h;
  start_following();
  begin_reverse();
  expect_reached(*new_, "old");
  const auto name = [](int i) { return fmt::format("from-new-{}", i); };
  for (int i = 0; i < 20; ++i) write_file(new_->root() / name(i), "written on new " + std::to_string(i));
  ASSERT_TRUE(eventually([&] { return read_all(old_root_ / name(19)).size() > 0; }));
  cut_power();
  for (int i = 0; i < 20; ++i) {
    const auto there = new_->root() / name(i);
    write_file(old_root_ / name(i), std::string(fs::file_size(there), '\0'));
    fs::last_write_time(old_root_ / name(i), fs::last_write_time(there));
  }
  std::this_thread::sleep_for(20ms);  // as in cut_power(): what is above came before this run
  old_->options().run_since_ns = wall_ns();
  std::this_thread::sleep_for(20ms);
  boot_again();
  for (int i = 0; i < 20; ++i) expect_everywhere(name(i), "written on new " + std::to_string(i));
  expect_equal();
}

// The same on a host that only receives: what came back as zeros, of an index that was not on the disk yet, is not a user's
// version either when the other host sends it again.
TEST_F(FilesPowerCut, WhatARecipientGotBackAsZerosIsNobodysVersion) {
  const auto name = [](int i) { return fmt::format("from-old-{}", i); };
  fs::create_directories(base_ / "new/tree");
  for (int i = 0; i < 20; ++i) {
    const auto here = old_root_ / name(i), there = base_ / "new/tree" / name(i);
    write_file(here, "written on old " + std::to_string(i));
    write_file(there, std::string(fs::file_size(here), '\0'));
    fs::last_write_time(there, fs::last_write_time(here));
  }
  std::this_thread::sleep_for(20ms);  // as in cut_power(): what is above came before this run
  options_.run_since_ns = wall_ns();
  std::this_thread::sleep_for(20ms);
  start_following();
  for (int i = 0; i < 20; ++i) expect_everywhere(name(i), "written on old " + std::to_string(i));
  expect_equal();
}

}  // namespace
}  // namespace midstream
