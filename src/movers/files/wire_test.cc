#include "movers/files/wire.h"

#include <gtest/gtest.h>

#include <random>

#include "movers/files/path.h"

namespace midstream::files {
namespace {

Change file_change(std::string_view path, std::string_view content) {
  Change change;
  change.path = path;
  change.version.type = EntryType::file;
  change.version.mode = 0644;
  change.version.size = content.size();
  change.content = content;
  return change;
}

std::string batch_of(const Change& change) {
  BatchWriter writer;
  writer.add(change);
  return writer.take(1);
}

TEST(Paths, OnlyPlainRelativeOnesAreSafe) {
  for (const std::string_view good : {"a", "a/b", "...", "a\nb", "\xff\xfe", "a/.midstream", ".midstreamx"}) {
    EXPECT_TRUE(is_safe_path(good)) << good;
  }
  using namespace std::string_view_literals;
  for (const std::string_view bad : {""sv, "/"sv, "/a"sv, "a/"sv, "a//b"sv, "."sv, ".."sv, "a/.."sv, "../a"sv, "a/./b"sv, "a\0b"sv,
                                     ".midstream"sv, ".midstream/x"sv}) {
    EXPECT_FALSE(is_safe_path(bad)) << bad;
  }
  EXPECT_TRUE(is_safe_path(std::string(255, 'x')));
  EXPECT_FALSE(is_safe_path(std::string(256, 'x')));
  std::string deep = "x";
  while (deep.size() < kMaxPath) deep += "/x";
  EXPECT_FALSE(is_safe_path(deep));
}

TEST(Paths, ExceptPatterns) {
  const Except except({"cache/", "*.tmp", "/logs/*.gz", "a/b"});
  EXPECT_TRUE(except.matches("x/cache", true));
  EXPECT_FALSE(except.matches("x/cache", false));
  EXPECT_TRUE(except.matches("x/cache/deep/file", false));
  EXPECT_TRUE(except.matches("deep/x.tmp", false));
  EXPECT_TRUE(except.matches("logs/x.gz", false));
  EXPECT_FALSE(except.matches("x/logs/x.gz", false));
  EXPECT_TRUE(except.matches("a/b/c", false));
  EXPECT_FALSE(except.matches("x/a/b", false));
  EXPECT_FALSE(except.matches(".", true));
}

TEST(Wire, ABatchComesBackAsItWas) {
  auto change = file_change("dir/name", "content");
  change.base = 42;
  change.xattrs = {{"user.a", "1"}, {"user.b", std::string("\0x", 2)}};
  change.version.mtime_ns = -5;
  BatchWriter writer;
  writer.add(change);
  Change gone;
  gone.op = Op::gone;
  gone.path = "old";
  writer.add(gone);
  const auto bytes = writer.take(7);
  EXPECT_TRUE(writer.empty());
  const auto frame = decode(bytes);
  ASSERT_TRUE(frame) << frame.error().text();
  const auto& batch = std::get<Batch>(*frame);
  EXPECT_EQ(batch.sequence, 7u);
  ASSERT_EQ(batch.changes.size(), 2u);
  EXPECT_EQ(batch.changes[0].version, change.version);
  EXPECT_EQ(batch.changes[0].xattrs, change.xattrs);
  EXPECT_EQ(batch.changes[0].content, "content");
  EXPECT_EQ(batch.changes[0].base, 42u);
  EXPECT_EQ(batch.changes[1].op, Op::gone);
}

TEST(Wire, AWriterIsAsNewAfterEachBatch) {
  BatchWriter writer;
  for (std::uint64_t sequence = 1; sequence < 4; ++sequence) {
    writer.add(file_change("a", std::string(sequence * 100, 'x')));
    EXPECT_EQ(writer.count(), 1u);
    const auto bytes = writer.take(sequence);
    const auto frame = decode(bytes);
    ASSERT_TRUE(frame) << frame.error().text();
    const auto& batch = std::get<Batch>(*frame);
    EXPECT_EQ(batch.sequence, sequence);
    ASSERT_EQ(batch.changes.size(), 1u);
    EXPECT_EQ(batch.changes[0].content.size(), sequence * 100);
  }
  const auto none = writer.take(4);
  const auto empty = decode(none);
  ASSERT_TRUE(empty);
  EXPECT_TRUE(std::get<Batch>(*empty).changes.empty());
}

TEST(Wire, APartFilledInPlaceIsTheSame) {
  const std::string content(1000, 'p');
  auto part = begin_part(3, 77, 4096);
  std::copy(content.begin(), content.end(), part.begin() + kPartHead);
  end_part(part, content.size());
  EXPECT_EQ(part, encode(Part{3, 77, content}));
}

TEST(Wire, UnsafePathsNeverLeaveTheDecoder) {
  using namespace std::string_view_literals;
  for (const std::string_view bad : {""sv, "/etc/passwd"sv, "../x"sv, "a/../../x"sv, "."sv, "a\0b"sv, ".midstream/t0"sv, "a//b"sv}) {
    const auto frame = decode(batch_of(file_change(bad, "x")));
    ASSERT_FALSE(frame) << bad;
    EXPECT_EQ(frame.error().kind, ErrorKind::corrupt);
    Change gone;
    gone.op = Op::gone;
    gone.path = bad;
    EXPECT_FALSE(decode(batch_of(gone))) << bad;
  }
  EXPECT_FALSE(decode(batch_of(file_change(std::string(kMaxPath + 1, 'x'), ""))));
  EXPECT_FALSE(decode(encode(Ack{1, 1, {{"../x", false, "no"}}})));
}

TEST(Wire, ImpossibleChangesAreRefused) {
  auto change = file_change("a", "xyz");
  change.version.size = 4;
  EXPECT_FALSE(decode(batch_of(change)));  // content of another size
  change = file_change("a", "x");
  change.version.mode = 010000;
  EXPECT_FALSE(decode(batch_of(change)));
  change = file_change("a", std::string_view("a\0b", 3));
  change.version.type = EntryType::symlink;
  EXPECT_FALSE(decode(batch_of(change)));  // a target with NUL
  change.content = "";
  EXPECT_FALSE(decode(batch_of(change)));  // an empty target
  change = file_change(".", "");
  EXPECT_FALSE(decode(batch_of(change)));  // the root as a file
  change = file_change("a", "");
  change.version.type = EntryType::none;
  EXPECT_FALSE(decode(batch_of(change)));
  change = file_change("a", "");
  change.xattrs = {{"user.b", ""}, {"user.a", ""}};
  EXPECT_FALSE(decode(batch_of(change)));  // out of order
}

TEST(Wire, RenamesOutOfTheTreeOrIntoThemselvesAreRefused) {
  const auto comes_through = [](std::string_view from, std::string_view to) {
    BatchWriter writer;
    Version version;
    version.type = EntryType::directory;
    writer.add({.op = Op::rename, .path = to, .version = version, .base = 1, .from = from});
    const auto body = writer.take(1);
    const auto frame = decode(body);
    return frame && std::get<Batch>(*frame).changes[0].from == from;
  };
  EXPECT_TRUE(comes_through("a/b", "c"));
  for (const auto* bad : {"..", "../a", "/a", "a//b", ".", "", ".midstream", ".midstream/a"}) {
    EXPECT_FALSE(comes_through(bad, "c")) << bad;
    EXPECT_FALSE(comes_through("a", bad)) << bad;
  }
  EXPECT_FALSE(comes_through("a", "a"));
  EXPECT_FALSE(comes_through("a", "a/b"));
  EXPECT_FALSE(comes_through("a/b", "a"));
}

TEST(Wire, GiantLengthsAndCountsAreRefusedBeforeAnythingIsAllocated) {
  std::string frame("\x01", 1);
  Writer writer(frame);
  writer.u64(1);
  writer.u32(0xffffffff);
  EXPECT_FALSE(decode(frame));
  std::string part("\x02", 1);
  Writer part_writer(part);
  part_writer.u32(1);
  part_writer.u64(0);
  part_writer.u32(0xffffffff);
  EXPECT_FALSE(decode(part));
  std::string listing("\x20\x00", 2);
  Writer(listing).u32(0xffffffff);
  std::vector<Listed> entries;
  EXPECT_FALSE(decode_listing(listing, entries));
}

TEST(Wire, TruncatedAndAlteredFramesNeverCrash) {
  auto change = file_change("dir/name", "content");
  change.xattrs = {{"user.a", "1"}};
  const std::vector<std::string> frames{batch_of(change), encode(Part{1, 2, "bytes"}), encode(Ack{3, 2, {{"a", true, "t"}}}),
                                        encode(Status{"full"}), encode(Welcome{}), encode(Refusal{{ErrorKind::refused, "a", "b"}}),
                                        encode_listing({{"a", change.version}}, true)};
  std::mt19937 random(7);
  for (const auto& good : frames) {
    for (std::size_t cut = 0; cut < good.size(); ++cut) EXPECT_FALSE(decode(good.substr(0, cut)));
    EXPECT_FALSE(decode(good + "x"));
    for (int i = 0; i < 2000; ++i) {
      auto bad = good;
      for (int j = 0; j < 3; ++j) bad[random() % bad.size()] = static_cast<char>(random());
      const auto result = decode(bad);
      std::vector<Listed> entries;
      const auto listing = decode_listing(bad, entries);
      (void)result, (void)listing;
    }
  }
}

}  // namespace
}  // namespace midstream::files
