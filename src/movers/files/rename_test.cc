// A directory or a large file that is renamed is renamed on the other host too: it keeps its inode there, and little is sent.
// Whatever happens meanwhile, both sides end equal.
#include "movers/files/testing.h"

namespace midstream {
namespace {

using namespace files_testing;

class FilesRename : public Files {
 protected:
  void start(int files, bool both_ways = false) {
    const auto root = base_ / "old/tree";
    fs::create_directories(root / "before/inner");
    for (int i = 0; i < files; ++i) write_file(root / fmt::format("before/f{}", i), fmt::format("file {}", i));
    write_file(root / "before/inner/deep", "deep");
    write_file(root / "large", std::string(2 << 20, 'L'));
    make_hosts();
    begin_follow();
    expect_reached(*old_, "new");
    if (both_ways) {
      begin_reverse();
      expect_reached(*new_, "old");
    }
    barrier(*old_, "new");
  }
  std::uint64_t sent() { return seen(*old_, "new")["sent_bytes"]; }
  static std::uint64_t inode(const fs::path& path) {
    struct ::stat st {};
    return ::lstat(path.c_str(), &st) == 0 ? st.st_ino : 0;
  }
  void expect_same() { EXPECT_EQ(difference(picture(old_->root()), picture(new_->root())), ""); }
};

TEST_F(FilesRename, ADirectoryKeepsItsInodesThereAndCostsAFewBytes) {
  start(5000);
  const auto there = new_->root();
  const auto directory = inode(there / "before"), file = inode(there / "before/f17");
  const auto before = sent();
  fs::rename(old_->root() / "before", old_->root() / "after");
  barrier(*old_, "new");
  expect_same();
  EXPECT_EQ(inode(there / "after"), directory);
  EXPECT_EQ(inode(there / "after/f17"), file);
  EXPECT_LT(sent() - before, 10'000u);
}

TEST_F(FilesRename, ALargeFileKeepsItsContentThere) {
  start(3);
  const auto large = inode(new_->root() / "large");
  const auto before = sent();
  fs::rename(old_->root() / "large", old_->root() / "before/inner/larger");
  barrier(*old_, "new");
  expect_same();
  EXPECT_EQ(inode(new_->root() / "before/inner/larger"), large);
  EXPECT_LT(sent() - before, 10'000u);
}

TEST_F(FilesRename, WhatChangesBeforeBetweenAndAfterIsCarriedOver) {
  start(200);
  const auto root = old_->root();
  for (int round = 0; round < 20; ++round) {
    const auto a = root / "before", b = root / "middle", c = root / "after";
    write_file(a / "f1", fmt::format("just before {}", round));
    fs::rename(a, b);
    write_file(b / "f2", fmt::format("between {}", round));
    write_file(b / fmt::format("new{}", round), "new");
    fs::remove(b / fmt::format("f{}", 20 + round));
    fs::rename(b, c);
    write_file(c / "f3", fmt::format("after {}", round));
    if (round % 3 == 0) write_file(root / "before", "a file of the old name");
    if (round % 3 == 1) fs::create_directories(root / "before/another");
    if (round % 2 == 0) barrier(*old_, "new");
    fs::remove_all(a);
    fs::rename(c, a);
    if (round % 4 == 0) {
      barrier(*old_, "new");
      expect_same();
    }
  }
  barrier(*old_, "new");
  expect_same();
}

TEST_F(FilesRename, IntoEachOtherExchangedAndOverAnEmptyDirectory) {
  start(50);
  const auto root = old_->root();
  fs::create_directories(root / "second/part");
  write_file(root / "second/part/x", "x");
  fs::create_directories(root / "empty");
  barrier(*old_, "new");
  fs::rename(root / "before", root / "second/part/before");
  barrier(*old_, "new");
  expect_same();
  ASSERT_EQ(::renameat2(AT_FDCWD, (root / "second/part/before/inner").c_str(), AT_FDCWD, (root / "empty").c_str(), RENAME_EXCHANGE), 0);
  barrier(*old_, "new");
  expect_same();
  ASSERT_EQ(::rename((root / "second/part/before").c_str(), (root / "second/part/before2").c_str()), 0);
  fs::create_directories(root / "e2");
  ASSERT_EQ(::rename((root / "second/part/before2").c_str(), (root / "e2").c_str()), 0);
  barrier(*old_, "new");
  expect_same();
}

// The other host is cut off at each moment: what it has not put on disk is as if it had never been told.
TEST_F(FilesRename, ALinkCutOrAKillInTheMiddleLeavesBothEqual) {
  start(300);
  std::string now = "before";
  for (int round = 0; round < 12; ++round) {
    const auto next = fmt::format("name{}", round);
    fs::rename(old_->root() / now, old_->root() / next);
    write_file(old_->root() / next / "f5", fmt::format("round {}", round));
    std::this_thread::sleep_for(Millis(round * 3 % 17));
    if (round % 3 == 0) to_new_->cut();
    if (round % 3 == 1) {
      new_->kill();
      new_->boot(*to_old_);
    }
    if (round % 3 == 2) {
      old_->kill();
      to_new_->cut();
      fs::remove(old_->root() / next / fmt::format("f{}", 100 + round));
      old_->boot(*to_new_);
    }
    now = next;
    barrier(*old_, "new");
    expect_same();
  }
}

TEST_F(FilesRename, BothWaysNothingIsSentBackAndBothSidesMayRename) {
  start(300, true);
  fs::rename(old_->root() / "before", old_->root() / "after");
  barrier(*old_, "new");
  barrier(*new_, "old");
  expect_same();
  EXPECT_LT(seen(*new_, "old")["sent_changes"].get<int>(), 5) << "a rename is no change of the other host's";
  write_file(new_->root() / "after/f1", "by new");
  fs::rename(new_->root() / "after", new_->root() / "third");
  barrier(*new_, "old");
  barrier(*old_, "new");
  expect_same();
  EXPECT_EQ(read_all(old_->root() / "third/f1"), "by new");
  // At the same time, each to another name, with a file written below it: nothing that was written is lost.
  write_file(old_->root() / "third/o", "of old");
  write_file(new_->root() / "third/n", "of new");
  fs::rename(old_->root() / "third", old_->root() / "by-old");
  fs::rename(new_->root() / "third", new_->root() / "by-new");
  for (int i = 0; i < 3; ++i) {
    barrier(*old_, "new");
    barrier(*new_, "old");
  }
  expect_equal();
  int found_o = 0, found_n = 0;
  for (const auto& [path, line] : picture(old_->root())) found_o += path.ends_with("/o"), found_n += path.ends_with("/n");
  EXPECT_GE(found_o, 1);
  EXPECT_GE(found_n, 1);
}

// What only looks whether the tree can be followed watches it too, for a moment.
TEST_F(FilesRename, BesideACheck) {
  start(3);
  std::atomic<bool> over{false};
  std::jthread renames([&] {
    for (bool there = false; !over; there = !there)
      fs::rename(old_->root() / (there ? "after" : "before"), old_->root() / (there ? "before" : "after"));
  });
  for (int i = 0; i < 20; ++i) {
    const auto found = old_->mover->check(old_->context(), follow(*old_, "new"));
    EXPECT_TRUE(found) << found.error().text();
  }
  over = true;
}

}  // namespace
}  // namespace midstream
