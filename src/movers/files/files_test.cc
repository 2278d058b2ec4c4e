#include "movers/files/testing.h"

namespace midstream {
namespace {

using namespace files_testing;

TEST_F(FilesOnDisk, CopiesATreeWithAllItsMetadata) {
  plant_tree();
  make_hosts();
  begin_follow();
  expect_equal();
  expect_reached(*old_, "new");
  EXPECT_EQ(seen(*old_, "new")["level"], "fanotify");
  struct ::stat st {};
  ASSERT_EQ(::stat((new_->root() / "a/sparse").c_str(), &st), 0);
  EXPECT_LT(st.st_blocks, 1024) << "holes are kept";
  const auto verified = verify();
  EXPECT_TRUE(verified) << verified.error().text();
}

TEST_F(Files, CarriesEveryKindOfChangeOver) {
  plant_tree();
  make_hosts();
  begin_follow();
  expect_reached(*old_, "new");
  const auto root = old_->root();
  write_file(root / "created", "one");
  write_file(root / "a/f10", std::string(1000, 'y'));  // the same size
  write_file(root / "a/f11", "more", O_APPEND);
  fs::rename(root / "a/f12", root / "a/b/renamed");
  fs::rename(root / "a/b", root / "moved");
  fs::remove(root / "a/f13");
  fs::create_directories(root / "deep/er/and/deeper/still");
  write_file(root / "deep/er/and/deeper/still/file", "deep");
  fs::remove(root / "a/link");
  fs::create_symlink("elsewhere", root / "a/link");
  fs::remove(root / "a/f14");
  fs::create_directory(root / "a/f14");
  ASSERT_EQ(::chmod((root / "a/f15").c_str(), 0600), 0);
  ::setxattr((root / "a/f16").c_str(), "user.note", "late", 4, 0);
  const auto done = barrier(*old_, "new");
  EXPECT_EQ(difference(picture(root), picture(new_->root())), "") << done.dump();
  fs::remove_all(root / "moved");
  fs::remove_all(root / "a");
  write_file(root / "big", std::string(2 << 20, 'z'));
  write_file(root / "big", "tail", O_APPEND);
  barrier(*old_, "new");
  EXPECT_EQ(difference(picture(root), picture(new_->root())), "");
}

// What was sent and is not on the other host's disk yet may be there all the same: that it is gone must be told.
TEST_F(Files, WhatWasJustSentAndIsRemovedWhileTheLinkIsDownGoesThereToo) {
  plant_tree();
  options_.checkpoint = 1h;  // nothing becomes durable by itself
  make_hosts();
  begin_follow();
  barrier(*old_, "new");
  for (const bool killed : {false, true}) {
    write_file(old_->root() / "fresh", "fresh");
    write_file(old_->root() / "a/f20", "changed");
    fs::create_directories(old_->root() / "d/e");
    write_file(old_->root() / "d/e/f", "below");
    ASSERT_TRUE(eventually([&] { return read_all(new_->root() / "d/e/f") == "below" && read_all(new_->root() / "a/f20") == "changed"; }));
    to_new_->down = true;
    to_new_->cut();
    if (killed) old_->kill();
    fs::remove(old_->root() / "fresh");
    fs::remove(old_->root() / "a/f20");
    fs::remove_all(old_->root() / "d");
    to_new_->down = false;
    if (killed) old_->boot(*to_new_);
    barrier(*old_, "new");
    EXPECT_EQ(difference(picture(old_->root()), picture(new_->root())), "") << "killed: " << killed;
    write_file(old_->root() / "a/f20", "again");
    barrier(*old_, "new");
  }
}

TEST_F(FilesOnDisk, ARestartOfEitherSideCostsWhatChanged) {
  plant_tree();
  make_hosts();
  begin_follow();
  expect_reached(*old_, "new");
  barrier(*old_, "new");
  old_->kill();
  to_new_->cut();
  write_file(old_->root() / "a/f5", "changed while away");
  fs::remove(old_->root() / "a/f6");
  fs::remove_all(old_->root() / "a/b");
  old_->boot(*to_new_);
  expect_equal();
  EXPECT_LT(seen(*old_, "new")["sent_changes"], 20) << seen(*old_, "new").dump(1);
  new_->kill();
  to_new_->cut();
  write_file(old_->root() / "a/f7", "changed while the other was away");
  fs::remove(old_->root() / "a/f8");
  EXPECT_TRUE(eventually([&] { return seen(*old_, "new")["phase"] == "stalled"; }));
  new_->boot(*to_old_);
  expect_equal();
  EXPECT_LT(seen(*old_, "new")["sent_changes"], 40) << seen(*old_, "new").dump(1);
}

TEST_F(Files, ACutLinkLosesNothing) {
  make_hosts();
  begin_follow();
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 100; ++i) write_file(old_->root() / fmt::format("f{}", i), fmt::format("{} {}", round, i));
    to_new_->cut();
  }
  expect_equal();
  barrier(*old_, "new");
}

// What had arrived and was not agreed on yet when the link was cut is gone there if it is gone here meanwhile.
TEST_F(Files, WhatGoesWhileTheLinkIsCutIsNotForgotten) {
  options_.checkpoint = 10s;  // nothing is agreed on until the barrier
  for (int i = 0; i < 3; ++i) write_file(base_ / fmt::format("old/tree/stays{}", i), "so that the root is not emptied");
  make_hosts();
  begin_follow();
  fs::create_directories(old_->root() / "d/e");
  write_file(old_->root() / "d/e/f", "here for a moment");
  ASSERT_TRUE(eventually([&] { return fs::exists(new_->root() / "d/e/f"); }));
  to_new_->down = true;
  to_new_->cut();
  fs::remove_all(old_->root() / "d");
  to_new_->down = false;
  barrier(*old_, "new");
  EXPECT_EQ(difference(picture(old_->root()), picture(new_->root())), "");
}

TEST_F(Files, AnOverflowOfTheQueueEndsEqual) {
  std::atomic<bool> hold{false};
  options_.unlimited_queue = false;
  options_.hold_drain = &hold;
  make_hosts();
  begin_follow();
  expect_reached(*old_, "new");
  std::ifstream limit("/proc/sys/fs/fanotify/max_queued_events");
  int most = 16384;
  limit >> most;
  hold = true;
  // Each path costs an event of its own; ids beyond the limit are lost.
  for (int i = 0; i < most + 500; ++i) ASSERT_EQ(::symlink("x", (old_->root() / fmt::format("l{}", i)).c_str()), 0);
  const auto before = seen(*old_, "new")["scans"].get<int>();
  hold = false;
  EXPECT_TRUE(eventually([&] { return seen(*old_, "new")["scans"] > before; }));
  barrier(*old_, "new");
  EXPECT_EQ(difference(picture(old_->root()), picture(new_->root())), "");
  old_->kill();  // its options point at `hold`
  new_->kill();
}

TEST_F(Files, BothWaysWithoutPingPong) {
  plant_tree();
  make_hosts();
  begin_follow();
  expect_reached(*old_, "new");
  EXPECT_EQ(outlook(*new_, "old")["why"], fmt::format("{} is not followed back to old", new_->root().string()));
  begin_reverse();
  expect_reached(*new_, "old");
  EXPECT_EQ(outlook(*new_, "old")["possible"], true);
  for (int i = 0; i < 30; ++i) {
    write_file(old_->root() / fmt::format("from-old-{}", i), "old");
    write_file(new_->root() / fmt::format("from-new-{}", i), "new");
    write_file((i % 2 ? old_ : new_)->root() / "a/f20", fmt::format("turn {}", i));
  }
  fs::remove(new_->root() / "a/f21");
  fs::rename(new_->root() / "a/b", new_->root() / "b");
  const auto settled = [&] {
    return picture(old_->root()) == picture(new_->root()) && seen(*old_, "new")["pending_entries"] == 0 &&
           seen(*new_, "old")["pending_entries"] == 0;
  };
  EXPECT_TRUE(eventually(settled)) << difference(picture(old_->root()), picture(new_->root()))
                                   << seen(*old_, "new").dump(1) << seen(*new_, "old").dump(1);
  barrier(*old_, "new");
  barrier(*new_, "old");
  EXPECT_TRUE(eventually(settled));
  const auto sent = [&] { return std::pair(seen(*old_, "new")["sent_changes"], seen(*new_, "old")["sent_changes"]); };
  const auto before = sent();
  std::this_thread::sleep_for(600ms);  // the idle period that is measured
  EXPECT_EQ(sent(), before);
  EXPECT_FALSE(fs::exists(old_->root() / "a/f21"));
  EXPECT_TRUE(fs::exists(old_->root() / "b/big"));
}

// What arrives with a directory's children, behind them, is judged by the time that the directory had before we changed it.
TEST_F(Files, ADirectoryChangedOnBothSidesHasTheSameTimeInTheEnd) {
  make_hosts();
  begin_follow();
  expect_reached(*old_, "new");
  begin_reverse();
  expect_reached(*new_, "old");
  barrier(*old_, "new");
  to_new_->down = to_old_->down = true;
  to_new_->cut();
  to_old_->cut();
  write_file(old_->root() / "from-old", "old");
  std::this_thread::sleep_for(2ms);  // so that one of the two is later
  write_file(new_->root() / "from-new", "new");
  std::this_thread::sleep_for(50ms);  // the directory's own change is looked at after its children's
  to_new_->down = to_old_->down = false;
  EXPECT_TRUE(eventually([&] { return picture(old_->root()) == picture(new_->root()); }))
      << difference(picture(old_->root()), picture(new_->root()));
}

TEST_F(Files, AConflictKeepsBoth) {
  make_hosts();
  write_file(old_->root() / "doc", "first");
  begin_follow();
  expect_reached(*old_, "new");
  begin_reverse();
  expect_reached(*new_, "old");
  barrier(*old_, "new");
  to_new_->down = to_old_->down = true;
  to_new_->cut();
  to_old_->cut();
  write_file(old_->root() / "doc", "written on old");
  std::this_thread::sleep_for(2ms);  // so that one of the two is later
  write_file(new_->root() / "doc", "written on new, later");
  to_new_->down = to_old_->down = false;
  EXPECT_TRUE(eventually([&] { return read_all(old_->root() / "doc") == "written on new, later"; }))
      << seen(*new_, "old").dump(1);
  EXPECT_EQ(read_all(new_->root() / "doc"), "written on new, later");
  bool kept = false;
  EXPECT_TRUE(eventually([&] {
    std::error_code ignored;
    for (const auto* host : {old_.get(), new_.get()}) {
      for (auto it = fs::recursive_directory_iterator(host->state() / "trees/tree/conflicts", ignored);
           it != fs::recursive_directory_iterator(); it.increment(ignored)) {
        kept |= read_all(it->path()) == "written on old";
      }
    }
    return kept;
  }));
  EXPECT_GE(seen(*old_, "new")["conflicts"].get<int>() + seen(*new_, "old")["conflicts"].get<int>(), 1);
  const auto theirs = seen(*old_, "new")["kept"], ours = seen(*new_, "old")["kept"];
  const auto& listed = theirs["count"] > 0 ? theirs : ours;
  ASSERT_FALSE(listed["latest"].empty()) << listed.dump();
  EXPECT_EQ(listed["latest"][0]["path"], "doc");
  EXPECT_TRUE(fs::exists(fs::path(listed["folder"].get<std::string>()).parent_path() /
                         listed["latest"][0]["file"].get<std::string>()));
}

TEST_F(Files, ADeleteNeverRemovesANewerModification) {
  make_hosts();
  write_file(old_->root() / "doc", "first");
  begin_follow();
  begin_reverse();
  expect_reached(*old_, "new");
  expect_reached(*new_, "old");
  barrier(*old_, "new");
  to_new_->down = to_old_->down = true;
  to_new_->cut();
  to_old_->cut();
  fs::remove(old_->root() / "doc");
  write_file(new_->root() / "doc", "modified");
  to_new_->down = to_old_->down = false;
  EXPECT_TRUE(eventually([&] { return read_all(old_->root() / "doc") == "modified"; }));
  EXPECT_EQ(read_all(new_->root() / "doc"), "modified");
}

TEST_F(Files, AnEmptiedRootDeletesNothing) {
  plant_tree();
  make_hosts();
  begin_follow();
  expect_reached(*old_, "new");
  barrier(*old_, "new");
  old_->kill();
  to_new_->cut();
  for (const auto& entry : fs::directory_iterator(old_->root())) fs::remove_all(entry.path());
  old_->boot(*to_new_);
  EXPECT_TRUE(eventually([&] {
    return seen(*old_, "new")["why"].get<std::string>().find("empty all of a sudden") != std::string::npos;
  })) << seen(*old_, "new").dump(1);
  EXPECT_TRUE(fs::exists(new_->root() / "a/f1"));
  fs::rename(old_->root(), base_ / "old/elsewhere");  // as if its mount had gone
  fs::create_directory(old_->root());
  EXPECT_TRUE(eventually(
      [&] { return seen(*old_, "new")["why"].get<std::string>().find("not the directory") != std::string::npos; }));
  EXPECT_TRUE(fs::exists(new_->root() / "a/f1"));
}

TEST_F(Files, VerifyFindsAPlantedDifference) {
  plant_tree();
  make_hosts();
  begin_follow();
  expect_reached(*old_, "new");
  barrier(*old_, "new");
  ASSERT_TRUE(verify());
  struct ::stat st {};
  const auto victim = new_->root() / "a/f30";
  ASSERT_EQ(::stat(victim.c_str(), &st), 0);
  write_file(victim, std::string(3000, 'q'));
  const timespec times[2] = {st.st_atim, st.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, victim.c_str(), times, 0), 0);
  const auto verified = verify();
  ASSERT_FALSE(verified);
  EXPECT_EQ(verified.error().kind, ErrorKind::refused);
  EXPECT_NE(verified.error().what.find("a/f30"), std::string::npos) << verified.error().what;
}

TEST_F(Files, UndoTakesBackOnlyWhatWasCopied) {
  plant_tree();
  make_hosts();
  begin_follow();
  expect_reached(*old_, "new");
  barrier(*old_, "new");
  const auto undone = old_->mover->undo(old_->context(), follow(*old_, "new"));
  ASSERT_TRUE(undone) << undone.error().text();
  EXPECT_FALSE(fs::exists(base_ / "new/tree"));
  EXPECT_FALSE(fs::exists(base_ / "new/state/trees/tree"));
  EXPECT_FALSE(fs::exists(old_->root() / ".midstream"));
  EXPECT_TRUE(fs::exists(old_->root() / "a/f1"));
  EXPECT_TRUE(old_->mover->undo(old_->context(), follow(*old_, "new")));  // idempotent
}

TEST_F(Files, UndoLeavesATargetThatHeldSomething) {
  write_file(base_ / "old/tree/f", "f");
  fs::create_directories(base_ / "new/tree");
  write_file(base_ / "new/tree/theirs", "theirs");
  make_hosts();
  begin_follow();
  expect_reached(*old_, "new");
  ASSERT_TRUE(old_->mover->undo(old_->context(), follow(*old_, "new")));
  EXPECT_EQ(read_all(base_ / "new/tree/theirs"), "theirs");
}

TEST_F(Files, ASwappedInLinkLeadsNobodyOut) {
  make_hosts();
  fs::create_directories(old_->root() / "d");
  write_file(old_->root() / "d/f", "inside");
  begin_follow();
  expect_reached(*old_, "new");
  barrier(*old_, "new");
  // On the receiver: the directory becomes a link to a place outside.
  fs::create_directories(base_ / "outside");
  write_file(base_ / "outside/f", "outside");
  fs::rename(new_->root() / "d", base_ / "aside");
  fs::create_symlink(base_ / "outside", new_->root() / "d");
  write_file(old_->root() / "d/f", "inside, changed");
  EXPECT_TRUE(eventually([&] { return !seen(*old_, "new")["troubles"].empty(); })) << seen(*old_, "new").dump(1);
  EXPECT_EQ(read_all(base_ / "outside/f"), "outside");
  // On the sender: what lies behind a link is never read.
  fs::create_symlink(base_ / "outside", old_->root() / "e");
  EXPECT_TRUE(eventually([&] { return fs::is_symlink(new_->root() / "e"); }));
  EXPECT_FALSE(fs::exists(new_->root() / "e/never"));
}

TEST_F(Files, AFullDiskStallsAndGoesOn) {
  new_root_ = base_ / "new/tree";
  fs::create_directories(new_root_);
  mount_memory(new_root_, "size=1m");
  for (int i = 0; i < 20; ++i) write_file(base_ / fmt::format("old/tree/f{}", i), std::string(200 << 10, 'f'));
  write_file(base_ / "old/tree/large", std::string(700 << 10, 'l'));
  make_hosts();
  begin_follow();
  EXPECT_TRUE(eventually([&] {
    return seen(*old_, "new")["why"].get<std::string>().find("No space left") != std::string::npos;
  })) << seen(*old_, "new").dump(1);
  EXPECT_EQ(seen(*old_, "new")["phase"], "stalled");
  ASSERT_EQ(::mount("tmpfs", new_root_.c_str(), "tmpfs", MS_REMOUNT, "size=20m"), 0);
  expect_equal();
  expect_reached(*old_, "new");
}

TEST_F(Files, HostileFramesEndTheStreamAndTouchNothing) {
  make_hosts();
  fs::create_directories(new_->root());
  using namespace files;
  for (const std::string path : {"../escape", "/tmp/escape", "a/../../escape", ".midstream/t0", ""}) {
    auto stream = to_new_->open("new", "files",
                                {{"for", "follow"}, {"id", "tree"}, {"path", "x"}, {"first", true}, {"protocol", files::kProtocol}},
                                {}, Deadline::in(5s), {});
    ASSERT_TRUE(stream);
    ASSERT_TRUE(read_frame(**stream, Deadline::in(5s), {}));  // the welcome
    Change change;
    change.path = path;
    change.version.type = EntryType::file;
    change.version.size = 1;
    change.content = "x";
    BatchWriter writer;
    writer.add(change);
    ASSERT_TRUE(write_frame(**stream, writer.take(1), Deadline::in(5s), {}));
    const auto answer = read_frame(**stream, Deadline::in(5s), {});
    ASSERT_TRUE(answer);
    const auto frame = decode(*answer);
    ASSERT_TRUE(frame);
    ASSERT_TRUE(std::holds_alternative<Refusal>(*frame));
    EXPECT_EQ(std::get<Refusal>(*frame).error.kind, ErrorKind::corrupt);
  }
  EXPECT_FALSE(fs::exists(base_ / "new/escape"));
}

TEST_F(Files, WithoutAWatcherItWalksAgainAndAgain) {
  options_.watch = false;
  plant_tree();
  make_hosts();
  begin_follow();
  expect_reached(*old_, "new");
  EXPECT_NE(seen(*old_, "new")["level"].get<std::string>().find("rescan"), std::string::npos);
  write_file(old_->root() / "late", "late");
  barrier(*old_, "new");
  EXPECT_EQ(difference(picture(old_->root()), picture(new_->root())), "");
}

TEST_F(Files, CheckNamesMailStoresAndMissingDirectories) {
  plant_tree();
  for (const auto* name : {"cur", "new", "tmp"}) fs::create_directories(base_ / "old/tree/box" / name);
  make_hosts();
  const auto checked = old_->mover->check(old_->context(), follow(*old_, "new"));
  ASSERT_TRUE(checked) << checked.error().text();
  int bad = 0;
  for (const auto& found : *checked) bad += found["ok"] == false;
  EXPECT_EQ(bad, 1) << checked->dump(1);
}

}  // namespace
}  // namespace midstream
