// Two directories that change places, on a real file system; no server has anything to do with it.
#include "movers/postgres/seed_place.h"

#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <fstream>

#include "sys/file.h"

namespace midstream::postgres {
namespace {

namespace fs = std::filesystem;

class SeedPlaceTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "midstream-seed-XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root = name;
    place = seed_place(::getpwuid(::geteuid())->pw_name, root / "main", root / ".midstream-autumn-5432", "autumn");
    for (const char* file : {"PG_VERSION", "base/1", "pg_hba.conf", "postgresql.auto.conf", "conf.d/mine.conf", "server.key"}) put(place.data / file, "new");
    for (const char* file : {"PG_VERSION", "base/1", "base/2", "pg_hba.conf", "postgresql.auto.conf", "old.only", "old.d/x"}) put(place.cluster() / file, "old");
    ASSERT_TRUE(mark_copy(place, "autumn"));
  }
  void TearDown() override { fs::remove_all(root); }

  static void put(const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  static std::string get(const fs::path& path) { return read_file(path).value_or("-"); }
  static std::string whose(const fs::path& cluster) { return get(cluster / "base/1"); }

  fs::path root;
  SeedPlace place;
};

TEST_F(SeedPlaceTest, TheCopyHasTheHostsFilesAndNoneOfOlds) {
  ASSERT_TRUE(settle_files(place));
  ASSERT_TRUE(settle_files(place));
  const auto copy = place.cluster();
  for (const char* file : {"pg_hba.conf", "postgresql.auto.conf", "conf.d/mine.conf", "server.key"}) EXPECT_EQ(get(copy / file), "new") << file;
  for (const char* file : {"PG_VERSION", "base/1", "base/2"}) EXPECT_EQ(get(copy / file), "old") << file;
  for (const char* file : {"old.only", "old.d"}) EXPECT_FALSE(fs::exists(copy / file)) << file;
  EXPECT_EQ(get(place.data / "server.key"), "new");
}

TEST_F(SeedPlaceTest, ThereAndBackAgainFromEveryHalf) {
  ASSERT_TRUE(swap_in(place));
  ASSERT_TRUE(swap_in(place));
  EXPECT_EQ(whose(place.data), "old");
  EXPECT_EQ(whose(place.before), "new");
  EXPECT_FALSE(fs::exists(place.cluster()));
  ASSERT_TRUE(swap_back(place));
  ASSERT_TRUE(swap_back(place));
  EXPECT_EQ(whose(place.data), "new");
  EXPECT_EQ(whose(place.cluster()), "old");
  EXPECT_FALSE(fs::exists(place.before));
  // Cut off between the exchange and the renaming, in either direction.
  fs::rename(place.data, root / "x"), fs::rename(place.cluster(), place.data), fs::rename(root / "x", place.cluster());
  ASSERT_FALSE(remove_copy(place)) << "it holds the host's own cluster";
  EXPECT_EQ(whose(place.cluster()), "new");
  ASSERT_TRUE(swap_back(place));
  EXPECT_EQ(whose(place.data), "new");
  fs::rename(place.data, root / "x"), fs::rename(place.cluster(), place.data), fs::rename(root / "x", place.cluster());
  ASSERT_TRUE(swap_in(place));
  EXPECT_EQ(whose(place.before), "new");
  fs::rename(place.data, root / "x"), fs::rename(place.before, place.data), fs::rename(root / "x", place.before);
  ASSERT_TRUE(swap_back(place));
  EXPECT_EQ(whose(place.data), "new");
  ASSERT_TRUE(remove_copy(place));
  ASSERT_TRUE(remove_copy(place));
  EXPECT_FALSE(fs::exists(place.cluster()));
  EXPECT_EQ(whose(place.data), "new");
}

TEST_F(SeedPlaceTest, WhatIsNotOursIsNeitherReplacedNorRemoved) {
  put(place.before / "PG_VERSION", "somebody's");
  EXPECT_FALSE(swap_in(place)) << "that name is taken";
  EXPECT_EQ(whose(place.data), "new");
  fs::remove_all(place.before);
  ASSERT_TRUE(swap_in(place));
  fs::rename(place.before, root / "elsewhere");
  EXPECT_FALSE(swap_back(place)) << "there is nothing to put back";
  EXPECT_EQ(whose(place.data), "old");
  fs::rename(root / "elsewhere", place.before);
  ASSERT_TRUE(unmark_copy(place));
  EXPECT_FALSE(is_copy(place.data));
  EXPECT_FALSE(swap_in(place)) << "there is no copy any more";
  EXPECT_FALSE(settle_files(place));
}

}  // namespace
}  // namespace midstream::postgres
