// What the collectors found on one side, docs/formats/collection.md. Pure: lines in, values out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream::lab {

struct OrderRow {
  std::string key;
  std::int64_t id = 0;
  std::string customer;
  std::int64_t amount = 0;
  std::vector<std::string> items;
  std::int64_t invoices = 0;

  bool operator==(const OrderRow&) const = default;
};

// One transaction that wrote rows which are still there.
struct Commit {
  std::int64_t xid = 0;
  std::int64_t at_us = 0;   // microseconds since 1970
  std::int64_t origin = 0;  // 0: of this cluster's own clients; else replicated from elsewhere

  auto operator<=>(const Commit&) const = default;
};

// A row of what must never run twice.
struct RunRow {
  std::int64_t n = 0;
  std::string host;  // that wrote it

  bool operator==(const RunRow&) const = default;
};

struct DatabaseCollection {
  std::string system;  // system_identifier
  std::string name;
  bool commit_timestamps = false;  // track_commit_timestamp is on
  std::vector<OrderRow> rows;
  std::vector<Commit> commits;
  std::vector<RunRow> runs;
};

struct FileEntry {
  std::string path;  // relative
  std::int64_t size = 0;
  std::string sha256;

  bool operator==(const FileEntry&) const = default;
};

// Calls `take` with the type of each line but the last, which must be the end and count them.
Result<> each_line(std::string_view text, const std::function<Result<>(const std::string& type, const Json& line)>& take);

std::string database_line(const DatabaseCollection& head);
std::string to_line(const OrderRow& row);
std::string to_line(const Commit& commit);
std::string to_line(const RunRow& run);
std::string to_line(const FileEntry& file);
// The last line: how many lines come before it. A collection without it, or with another count, is corrupt.
std::string end_line(std::size_t lines);

Result<DatabaseCollection> parse_database(std::string_view text);
Result<std::vector<FileEntry>> parse_files(std::string_view text);

}  // namespace midstream::lab
