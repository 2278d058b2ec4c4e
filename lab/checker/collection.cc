#include "lab/checker/collection.h"

#include <fmt/format.h>

#include <functional>

#include "base/json.h"

namespace midstream::lab {
namespace {

std::string dump(const Json& value) {
  return value.dump(-1, ' ', true, Json::error_handler_t::replace);
}

Result<OrderRow> row_from(const Json& line) {
  OrderRow row;
  row.key = TRY(get_string(line, "key"));
  row.id = TRY(get_int(line, "id"));
  row.customer = TRY(get_string(line, "customer"));
  row.amount = TRY(get_int(line, "amount"));
  row.items = TRY(get_strings(line, "items"));
  row.invoices = TRY(get_int(line, "invoices"));
  return row;
}

}  // namespace

Result<> each_line(std::string_view text,
                   const std::function<Result<>(const std::string& type, const Json& line)>& take) {
  std::int64_t lines = 0;
  while (!text.empty()) {
    const auto end = text.find('\n');
    const Json line = TRY(parse_json(text.substr(0, end)));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const auto type = TRY(get_string(line, "t"));
    if (type == "end") {
      if (!text.empty()) return corrupt("the collection goes on after its end");
      if (TRY(get_int(line, "lines")) != lines) return corrupt("the collection has lost lines");
      return {};
    }
    ++lines;
    if (auto taken = take(type, line); !taken)
      return with_context(taken.error(), fmt::format("line {}", lines));
  }
  return corrupt("the collection is cut short: it has no end");
}

std::string database_line(const DatabaseCollection& head) {
  return dump(Json{{"t", "database"},
                   {"v", 1},
                   {"system", head.system},
                   {"name", head.name},
                   {"commit_timestamps", head.commit_timestamps}});
}

std::string to_line(const OrderRow& row) {
  return dump(Json{{"t", "row"},
                   {"key", row.key},
                   {"id", row.id},
                   {"customer", row.customer},
                   {"amount", row.amount},
                   {"items", row.items},
                   {"invoices", row.invoices}});
}

std::string to_line(const Commit& commit) {
  return dump(Json{{"t", "commit"}, {"xid", commit.xid}, {"at_us", commit.at_us}, {"origin", commit.origin}});
}

std::string to_line(const RunRow& run) { return dump(Json{{"t", "run"}, {"n", run.n}, {"host", run.host}}); }

std::string to_line(const FileEntry& file) {
  return dump(Json{{"t", "file"}, {"path", file.path}, {"size", file.size}, {"sha256", file.sha256}});
}

std::string end_line(std::size_t lines) {
  return dump(Json{{"t", "end"}, {"lines", lines}});
}

Result<DatabaseCollection> parse_database(std::string_view text) {
  DatabaseCollection out;
  CHECK_OK(each_line(text, [&](const std::string& type, const Json& line) -> Result<> {
    if (type == "database") {
      if (TRY(get_int(line, "v")) != 1) return corrupt("its version is not 1");
      out.system = TRY(get_string(line, "system"));
      out.name = TRY(get_string(line, "name"));
      out.commit_timestamps = TRY(get_bool(line, "commit_timestamps"));
    } else if (type == "row") {
      out.rows.push_back(TRY(row_from(line)));
    } else if (type == "commit") {
      out.commits.push_back(
          Commit{TRY(get_int(line, "xid")), TRY(get_int(line, "at_us")), TRY(get_int(line, "origin"))});
    } else if (type == "run") {
      out.runs.push_back(RunRow{TRY(get_int(line, "n")), TRY(get_string(line, "host"))});
    } else {
      return corrupt(fmt::format("unknown type '{}'", type));
    }
    return {};
  }));
  if (out.system.empty()) return corrupt("the collection does not say which cluster it is of");
  return out;
}

Result<std::vector<FileEntry>> parse_files(std::string_view text) {
  std::vector<FileEntry> out;
  CHECK_OK(each_line(text, [&](const std::string& type, const Json& line) -> Result<> {
    if (type != "file") return corrupt(fmt::format("unknown type '{}'", type));
    out.push_back(FileEntry{TRY(get_string(line, "path")), TRY(get_int(line, "size")),
                            TRY(get_string(line, "sha256"))});
    return {};
  }));
  return out;
}

}  // namespace midstream::lab
