// The index: what it knows equals a plain map after any history, on disk as well as in memory, however the log ends.
#include "movers/files/index.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <random>

#include "movers/files/path.h"
#include "movers/files/root.h"
#include "sys/file.h"

namespace midstream::files {
namespace {

struct ByPath {
  bool operator()(const std::string& a, const std::string& b) const { return path_before(a, b); }
};
using Model = std::map<std::string, Entry, ByPath>;

bool same(const Entry& a, const Entry& b) {
  return a.version == b.version && a.ino == b.ino && a.ctime_ns == b.ctime_ns && a.from_peer == b.from_peer && a.racy == b.racy &&
         a.linked == b.linked;
}

void expect_equal(const Index& index, const Model& model) {
  ASSERT_EQ(index.size(), model.size());
  const auto& nodes = index.nodes();
  const auto ids = nodes.in_order(".");
  ASSERT_EQ(ids.size(), model.size());
  std::size_t at = 0;
  for (const auto& [path, entry] : model) {
    ASSERT_EQ(nodes.path(ids[at]), path);
    ASSERT_TRUE(same(nodes.entry(ids[at]), entry)) << path;
    ASSERT_TRUE(same(*index.find(path), entry)) << path;
    ++at;
  }
  auto unordered = nodes.below(".");
  std::ranges::sort(unordered);
  auto ordered = ids;
  std::ranges::sort(ordered);
  ASSERT_EQ(unordered, ordered);
}

class History {
 public:
  explicit History(std::uint64_t seed) : random_(seed) {}

  // One change, made alike to both; `note` where it goes to the log as well.
  void step(Index& index, Model& model) {
    const auto kind = pick(10);
    if (kind < 6 || model.empty()) return put(index, model, some_path());
    auto it = model.begin();
    std::advance(it, static_cast<std::ptrdiff_t>(pick(model.size())));
    const auto path = it->first;
    if (kind < 8) {
      index.erase(path);
      model.erase(path);
      return;
    }
    rename(index, model, path, some_path());
  }

 private:
  std::size_t pick(std::size_t below) { return random_() % below; }
  std::string some_path() {
    if (pick(40) == 0) return ".";
    static const char* const kNames[] = {"a", "b", "a-b", "a.", "ab", "z", "\xff\x01", "n\nn", "long name with spaces"};
    std::string path = kNames[pick(std::size(kNames))];
    for (auto depth = pick(4); depth > 0; --depth) path = join_path(path, kNames[pick(std::size(kNames))]);
    return path;
  }
  void put(Index& index, Model& model, const std::string& path) {
    Entry entry;
    entry.version = Version{.type = static_cast<EntryType>(1 + pick(6)), .mode = static_cast<std::uint16_t>(pick(3) + 0644), .uid = static_cast<std::uint32_t>(pick(2)),
                            .mtime_ns = static_cast<std::int64_t>(random_()), .size = random_(), .hash = random_(), .xattrs = pick(3)};
    entry.ino = pick(50);
    entry.ctime_ns = static_cast<std::int64_t>(random_());
    entry.from_peer = pick(2), entry.racy = pick(2), entry.linked = pick(2);
    index.put(path, entry);
    model[path] = entry;
  }
  static void rename(Index& index, Model& model, const std::string& from, const std::string& to) {
    bool taken = to == "." || from == "." || from == to || is_below(to, from);
    for (const auto& [path, entry] : model) taken |= path == to || is_below(path, to);
    ASSERT_EQ(index.rename(from, to), !taken) << from << " -> " << to;
    if (taken) return;
    index.note_rename(from, to);
    Model next;
    for (const auto& [path, entry] : model) {
      const bool moves = path == from || is_below(path, from);
      next[moves ? to + path.substr(from.size()) : path] = entry;
    }
    model.swap(next);
  }

  std::mt19937_64 random_;
};

class IndexTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "midstream-index-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path file() const { return folder_ / "index"; }
  void write(Index& index) { ASSERT_TRUE(index.write_records(index.take_records(), false)); }

  std::filesystem::path folder_;
};

TEST_F(IndexTest, EqualsAPlainMapAfterAnyHistoryAndWhenOpenedAgain) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    std::filesystem::remove(file());
    auto index = *Index::open(file());
    Model model;
    History history(seed);
    for (int round = 0; round < 6; ++round) {
      for (int i = 0; i < 150; ++i) {
        history.step(*index, model);
        if (HasFatalFailure()) return;
      }
      expect_equal(*index, model);
      write(*index);
      index.reset();
      index = *Index::open(file());  // every second time long enough to be compacted
      expect_equal(*index, model);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(IndexTest, ATornOrDamagedEndIsCutOffAndWhatStoodBeforeIsKept) {
  std::vector<std::pair<std::size_t, Model>> states;  // how long the log was when it said so
  {
    auto index = *Index::open(file());
    write(*index);
    Model model;
    History history(7);
    for (int i = 0; i < 60; ++i) {
      states.emplace_back(std::filesystem::file_size(file()), model);
      history.step(*index, model);
      write(*index);
    }
    states.emplace_back(std::filesystem::file_size(file()), model);
  }
  const auto whole = *read_file(file());
  for (std::size_t cut = states.front().first; cut <= whole.size(); cut += 31) {
    std::ofstream(file(), std::ios::binary) << whole.substr(0, cut);
    const Model* last = nullptr;
    for (const auto& [size, model] : states) {
      if (size <= cut) last = &model;
    }
    expect_equal(**Index::open(file()), *last);
    if (HasFatalFailure()) return;
  }
  auto damaged = whole;
  damaged[states[30].first + 20] ^= 1;
  std::ofstream(file(), std::ios::binary) << damaged;
  expect_equal(**Index::open(file()), states[30].second);
}

Entry plain(std::uint64_t ino, bool linked = false) {
  Entry entry;
  entry.version = Version{.type = EntryType::file, .mode = 0644, .mtime_ns = 5, .size = 9, .hash = ino};
  entry.ino = ino;
  entry.linked = linked;
  return entry;
}

TEST_F(IndexTest, WhatStandsBehindTheLastCheckpointIsUnproven) {
  {
    auto index = *Index::open(file());
    index->put("proven", plain(1));
    index->put("d", plain(2));
    index->put("d/inside", plain(3));
    index->put("later gone", plain(4));
    write(*index);
    ASSERT_TRUE(index->write_records(Index::checkpoint_record(), true));
    index->put("new", plain(5));
    index->erase("later gone");
    ASSERT_TRUE(index->rename("d", "e"));
    index->note_rename("d", "e");
    write(*index);
  }
  for (int opened = 0; opened < 2; ++opened) {  // and compaction keeps to it
    auto index = *Index::open(file());
    EXPECT_FALSE(index->unproven("proven"));
    for (const auto* path : {"new", "later gone", "d", "e", "e/inside"}) EXPECT_TRUE(index->unproven(path)) << path;
    EXPECT_GT(index->since_checkpoint(), 0u);
  }
  ASSERT_TRUE((*Index::open(file()))->write_records(Index::checkpoint_record(), true));
  EXPECT_FALSE((*Index::open(file()))->unproven("e/inside"));
}

// A rename of which nobody knows whether the other host carried it out: by both paths, and unsure, also after a kill.
TEST_F(IndexTest, ARenameInDoubtIsKnownByBothPaths) {
  const auto look = [](const Index& index) {
    for (const auto* path : {"d", "d/sure", "d/unsure", "e", "e/sure", "e/unsure"}) {
      ASSERT_TRUE(index.find(path)) << path;
      EXPECT_TRUE(index.find(path)->unsure) << path;
    }
    EXPECT_FALSE(index.find("other")->unsure);
  };
  {
    auto index = *Index::open(file());
    for (const auto* path : {"d", "d/sure", "other"}) index->put(path, plain(3));
    write(*index);
    index->note_sent("d/unsure", plain(4));
    ASSERT_TRUE(index->rename("d", "e"));
    index->note_renaming("d", "e");
    ASSERT_TRUE(index->write_ahead());  // and killed here
  }
  look(**Index::open(file()));
  std::filesystem::remove(file());
  auto index = *Index::open(file());
  for (const auto* path : {"d", "d/sure", "other"}) index->put(path, plain(3));
  index->note_sent("d/unsure", plain(4));
  ASSERT_TRUE(index->rename("d", "e"));
  index->note_renaming("d", "e");
  index->split_rename("d", "e");
  look(*index);
}

TEST_F(IndexTest, WhatIsSentIsKnownBeforeAndUnsureUntilItIsAgreedOn) {
  {
    auto index = *Index::open(file());
    index->note_sent("new", plain(1));
    index->put("old", plain(2));
    index->note_sent("old", Entry{});  // a removal
    index->note_sent("never", Entry{});
    ASSERT_TRUE(index->write_ahead());
    write(*index);
  }
  auto index = *Index::open(file());
  EXPECT_TRUE(index->find("new")->unsure);
  EXPECT_TRUE(index->find("old")->unsure);
  EXPECT_FALSE(index->find("never"));
  index->put("new", plain(1));
  write(*index);
  EXPECT_FALSE((*Index::open(file()))->find("new")->unsure);
}

TEST_F(IndexTest, NamesOfAnInodeGoWithTheirDirectory) {
  auto index = *Index::open(file());
  index->put("d/one", plain(8, true));
  index->put("two", plain(8, true));
  index->put("d", plain(9));
  ASSERT_TRUE(index->rename("d", "e/f"));
  auto names = index->names_of(8);
  std::ranges::sort(names);
  EXPECT_EQ(names, (std::vector<std::string>{"e/f/one", "two"}));
  index->erase("two");
  EXPECT_EQ(index->names_of(8), std::vector<std::string>{"e/f/one"});
}

TEST(Nodes, OrderIsADirectoryThenWhatLiesInIt) {
  const std::vector<std::string> order{".", "a", "a/b", "a/b/c", "a/b-", "a!", "a-", "b"};
  for (std::size_t i = 0; i < order.size(); ++i) {
    for (std::size_t j = 0; j < order.size(); ++j) EXPECT_EQ(path_before(order[i], order[j]), i < j) << order[i] << " " << order[j];
  }
}

// Names that come and go do not pile up.
TEST(Nodes, GivesBackWhatIsNotUsed) {
  Nodes nodes;
  nodes.put("stays", plain(1));
  for (int round = 0; round < 200; ++round) {
    for (int i = 0; i < 200; ++i) nodes.put("directory/" + std::string(200, 'x') + std::to_string(i), plain(2));
    for (int i = 0; i < 200; ++i) nodes.erase("directory/" + std::string(200, 'x') + std::to_string(i));
  }
  EXPECT_EQ(nodes.size(), 1u);
  EXPECT_LT(nodes.memory(), std::size_t{4} << 20);
  EXPECT_TRUE(nodes.get("stays"));
}

}  // namespace
}  // namespace midstream::files
