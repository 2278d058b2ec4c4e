// Every target without a fuzzer: its seeds, the inputs in corpus/TARGET (that once broke something, or that a fuzzer kept for
// what they reach), and mutations of both, the same ones for the same seed.
//
//   fuzz_replay [--gtest_filter='*/journal'] [--runs N] [--seed N]     N mutations a target (400), from this seed (1)
//   fuzz_replay --write-corpus DIR                                      the seeds as files in DIR/TARGET, for libFuzzer
//   fuzz_replay --input TARGET FILE                                     one input
//
// An input that ends the process is printed as hex before it does.
#include <fmt/format.h>
#include <gtest/gtest.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/text.h"
#include "sys/file.h"
#include "tests/fuzz/target.h"

namespace midstream::fuzz {

namespace {

namespace fs = std::filesystem;
using namespace std::string_view_literals;

std::uint64_t runs = 400;
std::uint64_t first_seed = 1;
const char* current_target = "";
const std::string* current_input = nullptr;

void tell_input() {
  if (current_input == nullptr) return;
  std::fprintf(stderr, "fuzz: target %s ended on input (hex) %s\n", current_target, to_hex(*current_input).c_str());
}

std::vector<std::string> corpus_of(const Target& target) {
  auto corpus = target.seeds();
  std::error_code none;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(fs::path(MIDSTREAM_FUZZ_CORPUS) / target.name, none)) files.push_back(entry.path());
  std::ranges::sort(files);
  for (const auto& file : files) corpus.push_back(read_file(file).value());
  return corpus;
}

class Mutator {
 public:
  Mutator(const std::vector<std::string>& corpus, std::uint64_t seed) : corpus_(corpus), random_(seed) {}

  std::string next() {
    auto text = corpus_[below(corpus_.size())];
    for (auto changes = 1 + below(4); changes > 0; --changes) change(text);
    return text;
  }

 private:
  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  void change(std::string& text) {
    static constexpr std::string_view kTelling = "\0\xff\x7f\x80 \n\r\t\"'\\{}[]:,;#0-9"sv;
    const auto at = below(text.size());
    const auto span = below(std::min<std::size_t>(text.size() - at, 16) + 1);
    switch (below(8)) {
      case 0: if (!text.empty()) text[at] = static_cast<char>(text[at] ^ (1 << below(8))); break;
      case 1: if (!text.empty()) text[at] = kTelling[below(kTelling.size())]; break;
      case 2: text.insert(at, 1, kTelling[below(kTelling.size())]); break;
      case 3: text.erase(at, span); break;
      case 4: text.insert(at, text.substr(at, span)); break;
      case 5: text.resize(at); break;
      case 6: text.insert(at, std::string(1 + below(300), kTelling[below(kTelling.size())])); break;
      default: {  // the head of this one, the tail of another
        const auto& other = corpus_[below(corpus_.size())];
        text = text.substr(0, at) + other.substr(below(other.size()));
      }
    }
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 random_;
};

void run_one(const Target& target, const std::string& input) {
  current_target = target.name;
  current_input = &input;
  target.run(input);
  current_input = nullptr;
}

class Fuzz : public testing::TestWithParam<Target> {};

TEST_P(Fuzz, Answers) {
  const auto& target = GetParam();
  const auto corpus = corpus_of(target);
  ASSERT_FALSE(corpus.empty());
  for (const auto& input : corpus) run_one(target, input);
  Mutator mutator(corpus, first_seed);
  for (std::uint64_t i = 0; i < runs; ++i) run_one(target, mutator.next());
}

INSTANTIATE_TEST_SUITE_P(Targets, Fuzz, testing::ValuesIn(all_targets()), [](const auto& info) { return std::string(info.param.name); });

int write_corpus(const fs::path& directory) {
  for (const auto& target : all_targets()) {
    fs::create_directories(directory / target.name);
    int number = 0;
    for (const auto& input : corpus_of(target)) std::ofstream(directory / target.name / std::to_string(number++), std::ios::binary) << input;
  }
  return 0;
}

int run_input(const std::string& name, const fs::path& file) {
  for (const auto& target : all_targets())
    if (name == target.name) return run_one(target, read_file(file).value()), 0;
  fmt::print(stderr, "fuzz_replay: there is no target '{}'\n", name);
  return 64;
}

}  // namespace

void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: does not hold: %s\n", what);
  tell_input();
  std::abort();
}

int main_with(int argc, char** argv) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(tell_input);
#endif
  testing::InitGoogleTest(&argc, argv);
  const std::vector<std::string> words(argv + 1, argv + argc);
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == "--runs") runs = std::stoull(words[i + 1]);
    if (words[i] == "--seed") first_seed = std::stoull(words[i + 1]);
    if (words[i] == "--write-corpus") return write_corpus(words[i + 1]);
    if (words[i] == "--input" && i + 2 < words.size()) return run_input(words[i + 1], words[i + 2]);
  }
  return RUN_ALL_TESTS();
}

}  // namespace midstream::fuzz

int main(int argc, char** argv) { return midstream::fuzz::main_with(argc, argv); }
