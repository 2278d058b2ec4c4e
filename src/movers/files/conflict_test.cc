// What loses a conflict, and what users write at that very moment, outlives a kill at any point.
#include <signal.h>
#include <sys/wait.h>

#include "movers/files/apply.h"
#include "movers/files/testing.h"

namespace midstream {
namespace {

using namespace files_testing;
using files::Applier;
using files::Change;
using files::Tree;

class FilesConflict : public Files {
 protected:
  void SetUp() override {
    Files::SetUp();
    if (IsSkipped()) return;
    fs::create_directories(base_ / "state");
  }
  std::unique_ptr<Tree> open() {
    auto tree = std::make_unique<Tree>();
    tree->id = "tree";
    tree->path = base_ / "old/tree";
    tree->state = base_ / "state";
    tree->run = {"run", 0};
    const auto opened = files::open_tree(*tree, false);
    EXPECT_TRUE(opened) << opened.error().text();
    return tree;
  }
  static Change change_of(std::string_view content, std::int64_t mtime_ns) {
    Change change;
    change.path = "doc";
    change.version.type = files::EntryType::file;
    change.version.mode = 0644;
    change.version.mtime_ns = mtime_ns;
    change.version.size = content.size();
    change.version.hash = files::hash_bytes(content);
    change.content = content;
    return change;
  }
  // Applies in a process of its own, which is killed at `point`. False where it never came there.
  bool apply_killed_at(const Change& change, const std::string& point, const std::function<void()>& before_kill = {}) {
    const pid_t child = ::fork();
    if (child == 0) {
      auto tree = open();
      tree->at_point = [&](std::string_view here) {
        if (here != point) return;
        if (before_kill) before_kill();
        ::raise(SIGKILL);
      };
      const std::lock_guard lock(tree->mutex);
      bool need_content = false;
      Applier applier(*tree);
      const auto applied = applier.apply(change, nullptr, need_content);
      ::_exit(applied ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  }
  bool kept(const std::string& content) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(base_ / "state/conflicts", ignored)) {
      if (entry.path().filename() != "list" && read_all(entry.path()) == content) return true;
    }
    return false;
  }
  fs::path doc() const { return base_ / "old/tree/doc"; }
};

constexpr std::int64_t kFuture = 4'000'000'000'000'000'000;

TEST_F(FilesConflict, TheLosingVersionOutlivesAKillAtEachPoint) {
  for (const std::string point : {"kept", "staged", "named", "taken out", "unlinked"}) {
    fs::remove_all(base_ / "state");
    fs::create_directories(base_ / "state");
    fs::remove(doc());
    write_file(doc(), "written here");
    const std::string theirs = "written there, later";
    const auto change = change_of(theirs, kFuture);
    ASSERT_TRUE(apply_killed_at(change, point)) << point << " was never passed";
    {
      const auto again = open();
      EXPECT_TRUE(read_all(doc()) == "written here" || kept("written here")) << "killed at " << point;
      const std::lock_guard lock(again->mutex);
      bool need_content = false;
      Applier applier(*again);
      ASSERT_TRUE(applier.apply(change, nullptr, need_content));
      EXPECT_GE(again->conflicts, 1u) << point;
      EXPECT_EQ(files::conflicts_json(*again)["latest"][0]["path"], "doc") << point;
    }
    EXPECT_EQ(read_all(doc()), theirs) << point;
    EXPECT_TRUE(kept("written here")) << "killed at " << point;
    EXPECT_TRUE(fs::is_empty(base_ / "old/tree/.midstream")) << point;
    EXPECT_GE(open()->conflicts, 1u) << "over a restart";
  }
}

// A user writes between the judgement and the exchange; then we are killed with the user's file in our hands.
TEST_F(FilesConflict, WhoWasQuickerOutlivesAKill) {
  for (const bool removal : {false, true}) {
    fs::remove_all(base_ / "state");
    fs::create_directories(base_ / "state");
    fs::remove(doc());
    write_file(doc(), "first");
    const auto tree = open();
    struct ::stat raw {};
    ASSERT_EQ(::stat(doc().c_str(), &raw), 0);
    auto known = change_of("first", 0);
    known.version.mtime_ns = std::int64_t{raw.st_mtim.tv_sec} * 1'000'000'000 + raw.st_mtim.tv_nsec;
    known.version.mode = raw.st_mode & 07777;
    Change change = change_of("second", kFuture);
    if (removal) {
      change = Change{};
      change.op = files::Op::gone;
      change.path = "doc";
    }
    change.base = files::digest(known.version);
    // The file that is taken out is the user's: they wrote to it where it lies, at the last moment.
    const auto write_late = [&] {
      std::error_code ignored;
      for (const auto& entry : fs::directory_iterator(base_ / "old/tree/.midstream", ignored))
        write_file(entry.path(), "a user's");
    };
    ASSERT_TRUE(apply_killed_at(change, "taken out", write_late)) << removal;
    const auto again = open();
    EXPECT_TRUE(kept("a user's")) << removal;
    EXPECT_TRUE(fs::is_empty(base_ / "old/tree/.midstream"));
  }
}

// Who holds a file open to write on writes into it, not into a file without a name.
TEST_F(FilesConflict, AnOpenWriterIsWaitedFor) {
  for (const bool removal : {false, true}) {
    fs::remove(doc());
    write_file(doc(), "first");
    auto tree = open();
    const std::lock_guard lock(tree->mutex);
    auto known = change_of("first", 0);
    struct ::stat raw {};
    ASSERT_EQ(::stat(doc().c_str(), &raw), 0);
    known.version.mtime_ns = std::int64_t{raw.st_mtim.tv_sec} * 1'000'000'000 + raw.st_mtim.tv_nsec;
    known.version.mode = raw.st_mode & 07777;
    const std::string second = "second";
    Change change = change_of(second, kFuture);
    if (removal) {
      change = Change{};
      change.op = files::Op::gone;
      change.path = "doc";
    }
    change.base = files::digest(known.version);
    bool need_content = false;
    Applier applier(*tree);
    {
      const Fd writer(::open(doc().c_str(), O_WRONLY | O_CLOEXEC));
      ASSERT_TRUE(writer);
      const auto applied = applier.apply(change, nullptr, need_content);
      ASSERT_FALSE(applied);
      EXPECT_NE(applied.error().what.find("open for writing"), std::string::npos) << applied.error().text();
      struct ::stat now {};
      ASSERT_EQ(::stat(doc().c_str(), &now), 0);
      EXPECT_TRUE(now.st_ctim.tv_sec == raw.st_ctim.tv_sec && now.st_ctim.tv_nsec == raw.st_ctim.tv_nsec)
          << "it was moved out of its place and back: who follows this side takes that for a change";
      ASSERT_EQ(::pwrite(writer.get(), "late!", 5, 0), 5);
    }
    EXPECT_EQ(read_all(doc()), "late!");
    EXPECT_TRUE(fs::is_empty(base_ / "old/tree/.midstream"));
    ASSERT_TRUE(applier.apply(change, nullptr, need_content)) << "nobody writes any more";
    EXPECT_EQ(read_all(doc()), removal ? "late!" : "second");
    EXPECT_TRUE(removal || kept("late!"));
    fs::remove_all(base_ / "state/conflicts");
  }
}

}  // namespace
}  // namespace midstream
