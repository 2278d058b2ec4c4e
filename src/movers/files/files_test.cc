// Two movers, each with its own state and its own path for the same tree, joined by socket pairs: the link is the
// only thing that is not as between two hosts. Real files, real fanotify.
#include "movers/files/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <mutex>
#include <thread>

#include "movers/files/tree.h"
#include "movers/files/wire.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

// One host's end of the world: a mover, its state, and a root of its own into which `/tree` is mapped by giving
// both movers their own path for the id. The wire carries the sender's path; the link rewrites it.
class Host;

class Link final : public Peers {
 public:
  Link(Host*& other, std::string theirs) : other_(other), theirs_(std::move(theirs)) {}
  ~Link() override { cut(); }
  Result<Json> call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args, const Task& task,
                    Deadline deadline, const std::stop_token& stop) override;
  Result<std::unique_ptr<Stream>> open(const std::string& host, std::string_view mover, const Json& hello, const Task& task,
                                       Deadline deadline, const std::stop_token& stop) override;
  // Ends every stream; new ones fail while `down`.
  void cut();
  std::atomic<bool> down{false};

 private:
  Json mapped(Json args) const {
    args["path"] = theirs_;
    return args;
  }
  Host*& other_;
  const std::string theirs_;
  std::mutex mutex_;
  std::vector<std::pair<std::jthread, int>> served_;
};

class Host {
 public:
  Host(std::string name, fs::path root, fs::path state, FilesOptions options)
      : name_(std::move(name)), root_(std::move(root)), state_(std::move(state)), options_(options) {}
  ~Host() { kill(); }
  void boot(Link& link) {
    link_ = &link;
    stop_ = std::stop_source();
    mover = make_files_mover(options_);
    const auto started = mover->start(context());
    EXPECT_TRUE(started) << started.error().text();
  }
  // As an agent ends: stop, let what is served end, then go. Nothing is said to the other side.
  void kill() {
    stop_.request_stop();
    while (serving > 0) std::this_thread::sleep_for(1ms);
    mover.reset();
  }
  std::atomic<int> serving{0};
  Context context(Millis span = 20s) { return Context{{"test", "s", 1}, name_, state_, *link_, Deadline::in(span), stop_.get_token()}; }
  const fs::path& root() const { return root_; }
  const fs::path& state() const { return state_; }
  std::unique_ptr<Mover> mover;

 private:
  const std::string name_;
  const fs::path root_, state_;
  const FilesOptions options_;
  Link* link_ = nullptr;
  std::stop_source stop_;
};

Result<Json> Link::call(const std::string&, std::string_view, std::string_view verb, const Json& args, const Task&, Deadline,
                        const std::stop_token&) {
  if (down || !other_ || !other_->mover) return retry("the other host is away");
  return other_->mover->peer(other_->context(), verb, mapped(args));
}

Result<std::unique_ptr<Stream>> Link::open(const std::string&, std::string_view, const Json& hello, const Task&, Deadline,
                                           const std::stop_token&) {
  if (down || !other_ || !other_->mover) return retry("the other host is away");
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return errno_failure("socketpair", errno);
  const std::lock_guard lock(mutex_);
  const int watch = ::dup(ends[1]);
  ++other_->serving;
  served_.emplace_back(std::jthread([this, fd = ends[1], hello = mapped(hello)] {
                         auto stream = make_fd_stream(Fd(fd));
                         auto served = other_->mover->serve(other_->context(1h), *stream, hello);
                         stream->shut();
                         --other_->serving;
                       }),
                       watch);
  return make_fd_stream(Fd(ends[0]));
}

void Link::cut() {
  std::vector<std::pair<std::jthread, int>> ended;
  {
    const std::lock_guard lock(mutex_);
    ended.swap(served_);
  }
  for (auto& [thread, fd] : ended) {
    ::shutdown(fd, SHUT_RDWR);
    if (thread.joinable()) thread.join();
    ::close(fd);
  }
}

std::string read_all(const fs::path& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  std::string content;
  struct ::stat st {};
  if (!fd || ::fstat(fd.get(), &st) != 0) return content;
  content.resize(static_cast<std::size_t>(st.st_size));
  const ssize_t n = ::read(fd.get(), content.data(), content.size());
  content.resize(static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
  return content;
}

// What an independent reader sees: everything that must be equal, as text.
std::map<std::string, std::string> picture(const fs::path& root) {
  std::map<std::string, std::string> out;
  const auto add = [&](const fs::path& path, const std::string& name) {
    struct ::stat st {};
    if (::lstat(path.c_str(), &st) != 0) return;
    std::string line = fmt::format("{:o} {}:{} {}.{:09}", st.st_mode, st.st_uid, st.st_gid, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    if (S_ISLNK(st.st_mode)) line += " -> " + fs::read_symlink(path).string();
    if (S_ISREG(st.st_mode)) {
      const auto content = read_all(path);
      line += fmt::format(" {} {}", content.size(), std::hash<std::string>()(content));
      char value[256];
      const auto n = ::lgetxattr(path.c_str(), "user.note", value, sizeof value);
      if (n >= 0) line += " note=" + std::string(value, static_cast<std::size_t>(n));
    }
    out[name] = line;
  };
  add(root, ".");
  std::error_code ignored;
  for (auto it = fs::recursive_directory_iterator(root, ignored); it != fs::recursive_directory_iterator(); it.increment(ignored)) {
    const auto name = it->path().lexically_relative(root).string();
    if (name == ".midstream") {
      it.disable_recursion_pending();
      continue;
    }
    add(it->path(), name);
  }
  return out;
}

std::string difference(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b) {
  std::string out;
  for (const auto& [name, line] : a) {
    const auto it = b.find(name);
    if (it == b.end()) out += fmt::format("only here: {}\n", name);
    else if (it->second != line) out += fmt::format("{}:\n  {}\n  {}\n", name, line, it->second);
  }
  for (const auto& [name, line] : b) {
    if (!a.contains(name)) out += fmt::format("only there: {}\n", name);
  }
  return out.substr(0, 2000);
}

void write_file(const fs::path& path, std::string_view content, int flags = O_TRUNC) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644));
  ASSERT_TRUE(fd) << path << ": " << std::strerror(errno);
  ASSERT_EQ(::write(fd.get(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
}

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: fanotify marks and owners";
    char name[] = "/var/tmp/midstream-files-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    base_ = name;
    if (on_memory()) mount_memory(base_);
    fs::create_directories(base_ / "old/tree");
    options_.checkpoint = 50ms;
    options_.backoff_max = 100ms;
  }
  void TearDown() override {
    if (base_.empty()) return;
    to_new_.reset();  // ends what is served before the hosts go
    to_old_.reset();
    if (old_) old_->kill();
    if (new_) new_->kill();
    old_.reset();
    new_.reset();
    for (const auto& mounted : mounted_) ::umount2(mounted.c_str(), MNT_DETACH);
    std::error_code ignored;
    fs::remove_all(base_, ignored);
    base_.clear();
  }
  // Whether the test's files lie on a tmpfs of their own: the disk's other users do not slow it down then.
  virtual bool on_memory() const { return true; }
  void mount_memory(const fs::path& at, const char* how = "size=256m") {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", at.c_str(), "tmpfs", 0, how) != 0) {
      GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
    }
    mounted_.insert(mounted_.begin(), at);
  }
  void make_hosts() {
    old_ = std::make_unique<Host>("old", base_ / "old/tree", base_ / "old/state", options_);
    new_ = std::make_unique<Host>("new", new_root_.empty() ? base_ / "new/tree" : new_root_, base_ / "new/state", options_);
    old_raw_ = old_.get();
    new_raw_ = new_.get();
    to_new_ = std::make_unique<Link>(new_raw_, new_->root().string());
    to_old_ = std::make_unique<Link>(old_raw_, old_->root().string());
    old_->boot(*to_new_);
    new_->boot(*to_old_);
  }
  Json follow(Host& from, const std::string& to, bool first = true) {
    return {{"kind", "follow"}, {"id", "tree"}, {"path", from.root().string()}, {"to", to}, {"except", Json::array()},
            {"until", "caught-up"}, {"first", first}};
  }
  void begin_follow() {
    const auto begun = old_->mover->apply(old_->context(), follow(*old_, "new"));
    ASSERT_TRUE(begun) << begun.error().text();
  }
  void begin_reverse() {
    const auto begun = new_->mover->apply(new_->context(), follow(*new_, "old", false));
    ASSERT_TRUE(begun) << begun.error().text();
  }
  Json seen(Host& host, const std::string& to) {
    auto out = host.mover->observe(host.context(), follow(host, to));
    EXPECT_TRUE(out) << out.error().text();
    return out ? *out : Json::object();
  }
  template <class Done>
  bool eventually(Done done, Millis span = 10s) {
    const auto deadline = Deadline::in(span);
    while (!deadline.expired()) {
      if (done()) return true;
      std::this_thread::sleep_for(10ms);
    }
    return done();
  }
  void expect_equal() {
    const bool equal = eventually([&] { return picture(old_->root()) == picture(new_->root()); });
    EXPECT_TRUE(equal) << difference(picture(old_->root()), picture(new_->root())) << seen(*old_, "new").dump(1);
  }
  void expect_reached(Host& host, const std::string& to) {
    EXPECT_TRUE(eventually([&] { return seen(host, to)["reached"] == true; })) << seen(host, to).dump(1);
  }
  Json barrier(Host& host, const std::string& to) {
    auto done = host.mover->apply(host.context(), {{"kind", "barrier"}, {"id", "tree"}, {"path", host.root().string()}, {"to", to}});
    EXPECT_TRUE(done) << done.error().text() << seen(host, to).dump(1);
    return done ? *done : Json::object();
  }
  Result<Json> verify() {
    return old_->mover->apply(old_->context(), {{"kind", "verify"}, {"id", "tree"}, {"path", old_->root().string()}, {"to", "new"},
                                                {"except", Json::array()}});
  }
  void plant_tree() {
    const auto root = base_ / "old/tree";
    fs::create_directories(root / "a/b/c");
    for (int i = 0; i < 50; ++i) write_file(root / fmt::format("a/f{}", i), std::string(static_cast<std::size_t>(i) * 100, 'x'));
    write_file(root / "a/b/big", std::string(1300 << 10, 'B'));
    write_file(root / "a/b/c/new\nline\xff", "odd name");
    fs::create_symlink("../nowhere", root / "a/link");
    ASSERT_EQ(::chown((root / "a/f1").c_str(), 1234, 4321), 0);
    ASSERT_EQ(::chmod((root / "a/f2").c_str(), 06750), 0);
    ASSERT_EQ(::lchown((root / "a/link").c_str(), 77, 88), 0);
    ASSERT_EQ(::mkfifo((root / "a/pipe").c_str(), 0620), 0);
    ::setxattr((root / "a/f3").c_str(), "user.note", "hello", 5, 0);
    const Fd sparse(::open((root / "a/sparse").c_str(), O_WRONLY | O_CREAT, 0600));
    ASSERT_EQ(::pwrite(sparse.get(), "end", 3, 2 << 20), 3);
    const timespec times[2] = {{1, 1}, {1'000'000'000, 123'456'789}};
    ASSERT_EQ(::utimensat(AT_FDCWD, (root / "a/b").c_str(), times, 0), 0);
  }

  fs::path base_, new_root_;
  std::vector<fs::path> mounted_;
  FilesOptions options_;
  Host* old_raw_ = nullptr;
  Host* new_raw_ = nullptr;
  std::unique_ptr<Host> old_, new_;
  std::unique_ptr<Link> to_new_, to_old_;
};

class FilesOnDisk : public Files {
  bool on_memory() const override { return false; }
};

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

// A power cut takes what the disk had not written. Here the index is made to remember later times than the disk
// shows, as after a real one; and another boot.
TEST_F(Files, WhatAPowerCutTookComesBack) {
  make_hosts();
  fs::create_directories(old_->root() / "d");
  for (const auto* name : {"d/lost", "d/torn", "d/removed"}) write_file(old_->root() / name, std::string("content of ") + name);
  begin_follow();
  expect_reached(*old_, "new");
  barrier(*old_, "new");
  EXPECT_TRUE(eventually([&] { return seen(*old_, "new")["pending_entries"] == 0; }));
  old_->kill();
  to_new_->cut();
  fs::remove(old_->root() / "d/lost");
  write_file(old_->root() / "d/torn", "");
  struct ::stat st {};
  ASSERT_EQ(::stat((new_->root() / "d/torn").c_str(), &st), 0);
  const timespec times[2] = {st.st_atim, st.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, (old_->root() / "d/torn").c_str(), times, 0), 0);
  fs::remove(old_->root() / "d/removed");
  {
    auto index = files::Index::open(old_->state() / "trees/tree/index");
    ASSERT_TRUE(index);
    for (const auto* name : {"d/lost", "d/torn"}) {
      const auto* known = std::as_const(**index).find(name);
      ASSERT_NE(known, nullptr);
      auto entry = *known;
      entry.ctime_ns += std::int64_t{3600} * 1'000'000'000;
      (*index)->put(name, entry);
    }
    (*index)->set_fact("boot", "another");
    ASSERT_TRUE((*index)->write_records((*index)->take_records(), true));
  }
  old_->boot(*to_new_);
  EXPECT_TRUE(eventually([&] { return read_all(old_->root() / "d/lost") == "content of d/lost"; })) << seen(*old_, "new").dump(1);
  EXPECT_TRUE(eventually([&] { return read_all(old_->root() / "d/torn") == "content of d/torn"; }));
  EXPECT_TRUE(eventually([&] { return !fs::exists(new_->root() / "d/removed"); }));
  expect_equal();
  EXPECT_EQ(seen(*old_, "new")["restored"], 2);
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
  begin_reverse();
  expect_reached(*new_, "old");
  for (int i = 0; i < 30; ++i) {
    write_file(old_->root() / fmt::format("from-old-{}", i), "old");
    write_file(new_->root() / fmt::format("from-new-{}", i), "new");
    write_file((i % 2 ? old_ : new_)->root() / "a/f20", fmt::format("turn {}", i));
  }
  fs::remove(new_->root() / "a/f21");
  fs::rename(new_->root() / "a/b", new_->root() / "b");
  const auto settled = [&] { return picture(old_->root()) == picture(new_->root()) && seen(*old_, "new")["pending_entries"] == 0 &&
                                    seen(*new_, "old")["pending_entries"] == 0; };
  EXPECT_TRUE(eventually(settled)) << difference(picture(old_->root()), picture(new_->root())) << seen(*old_, "new").dump(1)
                                   << seen(*new_, "old").dump(1);
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
  EXPECT_TRUE(eventually([&] { return read_all(old_->root() / "doc") == "written on new, later"; })) << seen(*new_, "old").dump(1);
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
  EXPECT_TRUE(eventually([&] { return seen(*old_, "new")["why"].get<std::string>().find("empty all of a sudden") != std::string::npos; }))
      << seen(*old_, "new").dump(1);
  EXPECT_TRUE(fs::exists(new_->root() / "a/f1"));
  fs::rename(old_->root(), base_ / "old/elsewhere");  // as if its mount had gone
  fs::create_directory(old_->root());
  EXPECT_TRUE(eventually([&] { return seen(*old_, "new")["why"].get<std::string>().find("not the directory") != std::string::npos; }));
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
  EXPECT_TRUE(eventually([&] { return seen(*old_, "new")["why"].get<std::string>().find("No space left") != std::string::npos; }))
      << seen(*old_, "new").dump(1);
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
    auto stream = to_new_->open("new", "files", {{"for", "follow"}, {"id", "tree"}, {"path", "x"}, {"first", true}, {"protocol", 1}},
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
