// A tree that writers change in every way there is, followed between two hosts on file systems of their own; then the barrier; then a
// comparison by a program that shares nothing with ours. `writers.py` and `compare.py` say what each does.
#include <poll.h>

#include <cstdlib>

#include "movers/files/testing.h"
#include "sys/child.h"
#include "sys/stream.h"

namespace midstream {
namespace {

using namespace files_testing;

constexpr const char* kPython = "/usr/bin/python3";
std::string program(const char* name) { return fmt::format("{}/{}", MIDSTREAM_TORTURE, name); }

double number_from(const char* name, double otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::atof(text) : otherwise;
}

// The writers, told line by line what to do.
class Writers {
 public:
  Writers(const fs::path& root, const std::string& kinds) {
    const auto seed = static_cast<int>(number_from("MIDSTREAM_TORTURE_SEED", 1));
    auto child = Child::start({kPython, program("writers.py"), root.string(), "--kinds", kinds, "--seed", std::to_string(seed)});
    EXPECT_TRUE(child) << child.error().text();
    if (child) child_.emplace(std::move(*child));
  }
  void say(const std::string& line) {
    const auto text = line + "\n";
    ASSERT_EQ(::write(child_->in(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // What they answer when all of them are quiet.
  std::string answer(Millis span) {
    std::string line;
    const auto deadline = Deadline::in(span);
    while (!line.ends_with('\n')) {
      char c = 0;
      if (!wait_fd(child_->out(), POLLIN, deadline, {}) || ::read(child_->out(), &c, 1) != 1) return line;
      line += c;
    }
    return line;
  }
  void end() {
    say("end");
    const auto code = child_->wait(Deadline::in(20s));
    EXPECT_TRUE(code && *code == 0);
  }

 private:
  std::optional<Child> child_;
};

struct Case {
  std::string system;  // ext4, xfs, tmpfs
  std::string kinds;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.system << " " << c.kinds; }

class Torture : public Files, public ::testing::WithParamInterface<Case> {
 protected:
  void SetUp() override {
    Files::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    mount_system(GetParam().system, "old");
    mount_system(GetParam().system, "new");
  }
  void run(const std::vector<std::string>& argv) {
    const auto done = run_child(argv, "", Deadline::in(60s));
    ASSERT_TRUE(done && done->code == 0) << argv[0] << ": " << (done ? done->err : done.error().text());
  }
  // A new file system at base_/NAME.
  void mount_system(const std::string& type, const std::string& name) {
    const auto at = base_ / name;
    fs::create_directories(at);
    if (type == "tmpfs") {
      ASSERT_EQ(::mount("tmpfs", at.c_str(), "tmpfs", 0, "size=1g"), 0);
    } else {
      const auto image = base_ / (name + ".img");
      write_file(image, "");
      fs::resize_file(image, 1u << 30);
      run({"mkfs." + type, "-q", image.string()});
      run({"mount", "-o", "loop", image.string(), at.string()});
    }
    mounted_.insert(mounted_.begin(), at);
    fs::create_directories(at / "tree");
  }
  // Past what somebody has open for writing on the other side just then.
  void expect_barrier(const std::string& when) {
    Result<Json> done = Json();
    const bool passed = eventually(
        [&] {
          done = old_->mover->apply(old_->context(40s), {{"kind", "barrier"}, {"id", "tree"}, {"path", old_->root().string()}, {"to", "new"}});
          return done.has_value();
        },
        30s);
    EXPECT_TRUE(passed) << when << ": " << done.error().text();
    const auto compared = run_child({kPython, program("compare.py"), old_->root().string(), new_->root().string()}, "", Deadline::in(120s));
    ASSERT_TRUE(compared) << compared.error().text();
    EXPECT_EQ(compared->code, 0) << when << ":\n" << compared->out << compared->err << seen(*old_, "new").dump(1);
    if (HasFailure()) FAIL();
  }
};

TEST_P(Torture, AfterTheBarrierBothTreesAreEqual) {
  const bool all = GetParam().kinds == "all";
  const double seconds = number_from(all ? "MIDSTREAM_TORTURE_ALL_SECONDS" : "MIDSTREAM_TORTURE_SECONDS", all ? 6 : 2);
  const auto patience = std::chrono::duration_cast<Millis>(std::chrono::duration<double>(seconds)) + 60s;
  Writers writers(base_ / "old/tree", GetParam().kinds);
  writers.say("run 1");
  ASSERT_TRUE(writers.answer(60s).starts_with("quiet"));
  make_hosts();
  writers.say(fmt::format("run {}", seconds));
  begin_follow();
  const auto did = writers.answer(patience);
  ASSERT_TRUE(did.starts_with("quiet")) << did;
  ASSERT_NO_FATAL_FAILURE(expect_barrier("after " + did));
  writers.say("store");
  ASSERT_TRUE(writers.answer(20s).starts_with("quiet"));
  ASSERT_NO_FATAL_FAILURE(expect_barrier("after stores into what is mapped"));
  writers.end();
  expect_barrier("after the writers' end");
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const auto* kind : {"rewrite", "append", "truncate", "rename", "deep", "sparse", "xattr", "swap", "names", "owner"})
    out.push_back({"ext4", kind});
  for (const auto* system : {"xfs", "tmpfs"}) out.push_back({system, "rename"});
  return out;
}
INSTANTIATE_TEST_SUITE_P(Every, Torture, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.system + "_" + info.param.kinds; });

// A comparer that finds nothing where there is something is worthless.
class Comparer : public Torture {};
TEST_P(Comparer, FindsEachKindOfDifference) {
  fs::create_directories(base_ / "old/planted");
  const auto done = run_child({kPython, program("compare.py"), "--self-test", (base_ / "old/planted").string()}, "", Deadline::in(60s));
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ(done->code, 0) << done->out << done->err;
  const bool whole = GetParam().system != "xfs" || done->out.find(" 0 that this file system does not have") != std::string::npos;
  EXPECT_TRUE(whole) << done->out;
}
INSTANTIATE_TEST_SUITE_P(On, Comparer, ::testing::Values(Case{"ext4", ""}, Case{"xfs", ""}, Case{"tmpfs", ""}),
                         [](const auto& info) { return info.param.system; });

}  // namespace
}  // namespace midstream
