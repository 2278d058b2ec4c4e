// Two movers, each with its own state and its own path for the same tree, joined by socket pairs: the link is the
// only thing that is not as between two hosts. Real files, real fanotify.
#pragma once

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

#include "movers/files/files.h"
#include "movers/files/tree.h"
#include "movers/files/wire.h"

namespace midstream::files_testing {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

// One host's end of the world: a mover, its state, and a root of its own into which `/tree` is mapped by giving
// both movers their own path for the id. The wire carries the sender's path; the link rewrites it.
class Host;

class Link final : public Peers {
 public:
  Link(Host*& other, std::string theirs) : other_(other), theirs_(std::move(theirs)) {}
  ~Link() override { cut(); }
  Result<Json> call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args,
                    const Task& task, Deadline deadline, const std::stop_token& stop) override;
  Result<std::unique_ptr<Stream>> open(const std::string& host, std::string_view mover, const Json& hello,
                                       const Task& task, Deadline deadline, const std::stop_token& stop) override;
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
  Context context(Millis span = 20s) {
    return Context{{"test", "s", 1}, name_, state_, *link_, Deadline::in(span), stop_.get_token()};
  }
  const fs::path& root() const { return root_; }
  const fs::path& state() const { return state_; }
  FilesOptions& options() { return options_; }  // of the next boot
  std::unique_ptr<Mover> mover;

 private:
  const std::string name_;
  const fs::path root_, state_;
  FilesOptions options_;
  Link* link_ = nullptr;
  std::stop_source stop_;
};

inline Result<Json> Link::call(const std::string&, std::string_view, std::string_view verb, const Json& args,
                               const Task&, Deadline, const std::stop_token&) {
  if (down || !other_ || !other_->mover) return retry("the other host is away");
  return other_->mover->peer(other_->context(), verb, mapped(args));
}

inline Result<std::unique_ptr<Stream>> Link::open(const std::string&, std::string_view, const Json& hello, const Task&,
                                                  Deadline, const std::stop_token&) {
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

inline void Link::cut() {
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

inline std::string read_all(const fs::path& path) {
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
inline std::map<std::string, std::string> picture(const fs::path& root) {
  std::map<std::string, std::string> out;
  const auto add = [&](const fs::path& path, const std::string& name) {
    struct ::stat st {};
    if (::lstat(path.c_str(), &st) != 0) return;
    std::string line =
        fmt::format("{:o} {}:{} {}.{:09}", st.st_mode, st.st_uid, st.st_gid, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
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
  for (auto it = fs::recursive_directory_iterator(root, ignored); it != fs::recursive_directory_iterator();
       it.increment(ignored)) {
    const auto name = it->path().lexically_relative(root).string();
    if (name == ".midstream") {
      it.disable_recursion_pending();
      continue;
    }
    add(it->path(), name);
  }
  return out;
}

inline std::string difference(const std::map<std::string, std::string>& a,
                              const std::map<std::string, std::string>& b) {
  std::string out;
  for (const auto& [name, line] : a) {
    const auto it = b.find(name);
    if (it == b.end())
      out += fmt::format("only here: {}\n", name);
    else if (it->second != line)
      out += fmt::format("{}:\n  {}\n  {}\n", name, line, it->second);
  }
  for (const auto& [name, line] : b) {
    if (!a.contains(name)) out += fmt::format("only there: {}\n", name);
  }
  return out.substr(0, 2000);
}

inline void write_file(const fs::path& path, std::string_view content, int flags = O_TRUNC) {
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
    options_.still = 1500ms;
    options_.checkpoint = 50ms;
    options_.backoff_max = 100ms;
  }
  void TearDown() override {
    if (base_.empty()) return;
    for (auto* link : {to_new_.get(), to_old_.get()}) {
      if (!link) continue;
      link->down = true;
      link->cut();  // ends what is served before the hosts go
    }
    if (old_) old_->kill();
    if (new_) new_->kill();
    to_new_.reset();  // whoever might use them is gone
    to_old_.reset();
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
    old_ =
        std::make_unique<Host>("old", old_root_.empty() ? base_ / "old/tree" : old_root_,
                               old_root_.empty() ? base_ / "old/state" : old_root_.parent_path() / "state", options_);
    new_ = std::make_unique<Host>("new", new_root_.empty() ? base_ / "new/tree" : new_root_, base_ / "new/state",
                                  options_);
    old_raw_ = old_.get();
    new_raw_ = new_.get();
    to_new_ = std::make_unique<Link>(new_raw_, new_->root().string());
    to_old_ = std::make_unique<Link>(old_raw_, old_->root().string());
    old_->boot(*to_new_);
    new_->boot(*to_old_);
  }
  Json follow(Host& from, const std::string& to, bool first = true) {
    return {
        {"kind", "follow"},     {"id", "tree"},  {"path", from.root().string()}, {"to", to}, {"except", Json::array()},
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
  Json outlook(Host& host, const std::string& to) {
    return host.mover->observe_undo(host.context(), follow(host, to, false)).value_or(Json::object());
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
    auto done = host.mover->apply(host.context(),
                                  {{"kind", "barrier"}, {"id", "tree"}, {"path", host.root().string()}, {"to", to}});
    EXPECT_TRUE(done) << done.error().text() << seen(host, to).dump(1);
    return done ? *done : Json::object();
  }
  Result<Json> verify() {
    return old_->mover->apply(old_->context(), {{"kind", "verify"},
                                                {"id", "tree"},
                                                {"path", old_->root().string()},
                                                {"to", "new"},
                                                {"except", Json::array()}});
  }
  void plant_tree() {
    const auto root = base_ / "old/tree";
    fs::create_directories(root / "a/b/c");
    for (int i = 0; i < 50; ++i)
      write_file(root / fmt::format("a/f{}", i), std::string(static_cast<std::size_t>(i) * 100, 'x'));
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

  fs::path base_, old_root_, new_root_;
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

}  // namespace midstream::files_testing
