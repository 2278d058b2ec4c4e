// Plays every *.txt beside this file and compares. MIDSTREAM_REWRITE=1 writes the engine's answers into the files
// instead: read the difference, and commit it only if you can say why it is right.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/scenarios/script.h"

namespace midstream::test {
namespace {

std::vector<std::filesystem::path> scenarios() {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(MIDSTREAM_SCENARIOS)) {
    if (entry.path().extension() == ".txt") found.push_back(entry.path());
  }
  std::ranges::sort(found);
  return found;
}

class Scenario : public ::testing::TestWithParam<std::filesystem::path> {};

TEST_P(Scenario, Holds) {
  std::ifstream in(GetParam());
  const std::string text(std::istreambuf_iterator<char>(in), {});
  ASSERT_TRUE(text.starts_with("# ")) << "a scenario opens with its story";
  const auto played = play(text);
  ASSERT_TRUE(played) << played.error().text();
  if (std::getenv("MIDSTREAM_REWRITE")) {
    std::ofstream(GetParam()) << *played;
    return;
  }
  EXPECT_EQ(*played, text) << "rewrite with MIDSTREAM_REWRITE=1 if the new answer is the right one";
}

INSTANTIATE_TEST_SUITE_P(All, Scenario, ::testing::ValuesIn(scenarios()), [](const auto& info) {
  auto name = info.param.stem().string();
  std::ranges::replace(name, '-', '_');
  return name;
});

TEST(Script, NamesTheLineItDoesNotUnderstand) {
  const auto played = play("# x\nhosts a\nstep prepare s effect a\nstart\nfly s\n");
  ASSERT_FALSE(played);
  EXPECT_NE(played.error().what.find("line 5: fly s"), std::string::npos) << played.error().what;
}

}  // namespace
}  // namespace midstream::test
