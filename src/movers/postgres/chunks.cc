#include "movers/postgres/chunks.h"

#include <fmt/format.h>

#include <algorithm>

namespace midstream::postgres {

namespace {

const char* format_of(const SourceTable& table) { return table.binary ? "binary" : "text"; }

}  // namespace

std::vector<Chunk> cut_into_chunks(const std::vector<SourceTable>& tables, std::int64_t bytes) {
  auto by_size = tables;
  const auto step = std::max<std::int64_t>(bytes / kPageBytes, 1);
  std::ranges::stable_sort(by_size, [&](const SourceTable& a, const SourceTable& b) {
    const bool small = a.pages <= step, other_small = b.pages <= step;
    return small != other_small ? small : a.pages > b.pages;
  });
  std::vector<Chunk> chunks;
  for (const auto& table : by_size) {
    for (std::int64_t first = 0; first == 0 || first < table.pages; first += step) {
      const bool last = first + step >= table.pages;
      const auto end = last ? table.pages : first + step;
      chunks.push_back({table.name, first, last ? 0 : end, std::max<std::int64_t>(end - first, 0) * kPageBytes});
    }
  }
  return chunks;
}

std::string copy_out_sql(const SourceTable& table, const Chunk& chunk) {
  const auto until = chunk.end == 0 ? "" : fmt::format(" AND ctid < '({},0)'", chunk.end);
  return fmt::format("COPY (SELECT {} FROM ONLY {} WHERE ctid >= '({},0)'{}) TO STDOUT (FORMAT {})", table.columns,
                     table.name, chunk.first, until, format_of(table));
}

std::string copy_in_sql(const SourceTable& table) {
  const auto columns = table.columns.empty() ? "" : fmt::format(" ({})", table.columns);
  return fmt::format("COPY {}{} FROM STDIN (FORMAT {})", table.name, columns, format_of(table));
}

void Climb::measured(double bytes_a_second) {
  if (settled_) return;
  const bool better = bytes_a_second > before_ * 1.1;
  if (!better && before_ > 0) {
    workers_ = std::max(workers_ - 1, 1);
    settled_ = true;
    return;
  }
  before_ = bytes_a_second;
  if (workers_ >= most_) settled_ = true;
  else ++workers_;
}

}  // namespace midstream::postgres
