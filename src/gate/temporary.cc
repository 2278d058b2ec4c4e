#include "gate/temporary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <tuple>

#include "gate/belongings.h"
#include "gate/temporary_sql.h"

namespace midstream::gate {

namespace {

using namespace std::literals;

constexpr std::size_t kMostRows = 10'000;  // of a cursor
constexpr std::size_t kFirstRows = 16;     // asked for before it is known how long they are
// Beyond the bytes of the tables: their definitions, and what the protocol puts around rows.
constexpr std::size_t kRoom = 4u << 20;

// Values as texts that mean the same on every server, for this transaction; what is made is made where it was.
constexpr std::string_view kPlain = R"(SELECT pg_catalog.set_config(name, value, true) FROM (VALUES ('search_path', 'pg_catalog'), ('client_encoding',
pg_catalog.getdatabaseencoding()::pg_catalog.text), ('DateStyle', 'ISO, MDY'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'), ('extra_float_digits', '3'),
('bytea_output', 'hex'), ('lc_monetary', 'C'), ('xmloption', 'content'), ('statement_timeout', '0'), ('quote_all_identifiers', 'off'),
('standard_conforming_strings', 'on'), ('array_nulls', 'on'), ('transform_null_equals', 'off'), ('default_tablespace', ''), ('temp_tablespaces', ''),
('default_table_access_method', 'heap'), ('midstream.temporary', 'on')) AS plain (name, value))";
// At the transaction's end the server says which indexes it builds anew, because their tables are ON COMMIT DELETE ROWS.
constexpr std::string_view kTalkative = "SELECT pg_catalog.set_config('client_min_messages', 'debug1', true)";
constexpr std::string_view kDefinitions = "_temporary";  // behind kOwnStatement

// Within a function: so does a side let it begin that does not own yet (midstream.deny_ddl).
std::string made_by(const std::string& sql) { return aside("DO " + quote_literal("BEGIN EXECUTE " + quote_literal(sql) + "; END")); }

std::string become(const std::string& role) { return aside(fmt::format("SELECT pg_catalog.set_config('role', {}, true)", quote_literal(role))); }

std::size_t number(const std::string& text) {
  const auto last = text.find_last_of(' ');
  return static_cast<std::size_t>(std::strtoull(text.c_str() + (last == std::string::npos ? 0 : last + 1), nullptr, 10));
}

std::size_t size_of(const Exchange::Row& row) {
  std::size_t bytes = 0;
  for (const auto& one : row) bytes += one ? one->size() + 4 : 4;
  return bytes;
}

bool contains_word(std::string_view text, std::string_view word) {
  for (std::size_t at = 0; at + word.size() <= text.size(); ++at) {
    std::size_t same = 0;
    while (same < word.size() && (text[at + same] | 0x20) == word[same]) ++same;
    if (same == word.size()) return true;
  }
  return false;
}

// Name, type and its modifier of each column.
std::vector<std::tuple<std::string, std::uint32_t, std::uint32_t>> described(std::string_view body) {
  std::vector<std::tuple<std::string, std::uint32_t, std::uint32_t>> out;
  if (body.size() < 2) return out;
  const int count = read_u16(body);
  body.remove_prefix(2);
  for (int i = 0; i < count; ++i) {
    const auto name = take_string(body);
    if (!name || body.size() < 18) return {};
    out.emplace_back(*name, read_u32(body.substr(6)), read_u32(body.substr(12)));
    body.remove_prefix(18);
  }
  return out;
}

}  // namespace

bool may_delete_on_commit(std::string_view sql) { return contains_word(sql, "commit") && contains_word(sql, "temp") && contains_word(sql, "delete"); }

TemporaryReader::TemporaryReader(TemporaryLimits limits, Found found) : limits_(limits), found_(std::move(found)) {
  if (found_.tables_of == nullptr) return;
  all_.definitions = found_.tables_of->definitions;
  all_.emptied = found_.tables_of->emptied;
}

void TemporaryReader::pin(std::string why) {
  if (pinned_.empty()) pinned_ = std::move(why);
}

Exchange TemporaryReader::next() {
  switch (step_) {
    case Step::definitions: return ask_definitions();
    case Step::contents: return ask_contents();
    case Step::rows: return ask_rows();
    default: return ask_restore();
  }
}

void TemporaryReader::answered(const Exchange& round) {
  const bool failed = !round.error().empty();
  if (failed) {
    cancelled_ = cancelled_ || round.sqlstate() == "57014";
    pin((found_.tables && step_ <= Step::contents ? "its temporary tables cannot be read: " : "its cursors WITH HOLD cannot be read: ") + round.error());
  }
  switch (step_) {
    case Step::definitions:
      if (!failed) defined(round);
      step_ = pinned_.empty() ? Step::contents : Step::done;
      break;
    case Step::contents:
      if (!failed) filled(round);
      placed(round);
      after_rows();
      break;
    case Step::rows:
      if (!failed) fetched(round);
      after_rows();
      break;
    default: step_ = Step::done;
  }
}

Exchange TemporaryReader::ask_definitions() const {
  const auto own = std::string(kOwnStatement) + std::string(kDefinitions) + '\0';
  auto requests = aside(kPlain);
  if (found_.tables) {
    if (!found_.question_there) requests += message('C', "S" + own) + message('P', own + std::string(kAskTemporary) + "\0\0\0"s);
    requests += message('B', own + own + "\0\0\0\0\0\0"s) + message('E', own + "\0\0\0\0"s) + message('C', "P" + own);
  }
  for (const auto& [name, binary] : found_.cursors) requests += aside("FETCH FORWARD ALL FROM " + quote_name(name), true);
  return Exchange(requests + message('S', ""), 1, kRoom);
}

void TemporaryReader::defined(const Exchange& round) {
  std::size_t tables = 0, bytes = 0;
  if (found_.tables) {
    if (round.results().size() != 2) return pin("its temporary tables cannot be read: an answer that is not understood");
    for (const auto& row : round.results()[1].rows) {
      std::vector<std::string> texts;
      for (const auto& one : row) texts.push_back(one.value_or(""));
      if (texts.size() != 5) return pin("its temporary tables cannot be read: an answer that is not understood");
      sort_row(texts, tables, bytes);
    }
  }
  if (bytes > limits_.bytes) pin(fmt::format("its temporary tables have {} bytes, and at most {} are copied", bytes, limits_.bytes));
  if (tables > limits_.tables) pin(fmt::format("it has {} temporary tables, and at most {} are copied", tables, limits_.tables));
  if (round.descriptions().size() != found_.cursors.size()) return pin("its cursors WITH HOLD cannot be read: one has no columns");
  for (const auto& one : round.descriptions()) places_.push_back({.columns = one});
}

void TemporaryReader::sort_row(const std::vector<std::string>& row, std::size_t& tables, std::size_t& bytes) {
  const auto& [kind, owner, name, sql] = std::tie(row[0], row[2], row[3], row[4]);
  if (kind == "pin") return pin(sql);
  if (kind == "size") {
    bytes += number(sql);
  } else if (kind == "empty") {
    probes_[owner] = owner;
    if (!name.empty()) probes_[name] = owner;
    // Nothing will tell of it but the texts that it may have been made by.
    if (!found_.copy && (sql == "function" || (sql == "wire" && found_.texts_delete)))
      pin(fmt::format("its temporary table {} is empty and may be ON COMMIT DELETE ROWS, which the server does not tell of a table without an index or TOAST", owner));
  } else if (kind == "analyze") {
    all_.analyze.emplace_back(owner, name);
  } else {
    tables += kind == "table" ? 1 : 0;
    all_.definitions.push_back(row);
  }
}

Exchange TemporaryReader::ask_contents() {
  auto requests = aside(kPlain);
  for (const auto& place : places_) {
    std::string columns;
    for (const auto& [name, type, modifier] : described(place.columns))
      columns += fmt::format("{}pg_catalog.format_type({}, {})", columns.empty() ? "" : ", ", type, static_cast<std::int32_t>(modifier));
    requests += aside("SELECT " + columns);
  }
  std::string role;
  for (const auto& row : all_.definitions) {
    const auto& [kind, owner, name, sql] = std::tie(row[0], row[2], row[3], row[4]);
    if (kind != "copy" && kind != "sequence") continue;
    if (owner != role) requests += become(role = owner), asked_.emplace_back();
    asked_.push_back((kind == "copy" ? "r" : "s") + name);
    requests += aside(kind == "copy" ? sql + " TO STDOUT" : fmt::format("SELECT last_value, is_called FROM pg_temp.{}", sql));
  }
  requests += places();
  if (!probes_.empty()) requests += aside(kTalkative);
  return Exchange(requests + message('S', ""), 1, 2 * limits_.bytes + kRoom);
}

void TemporaryReader::filled(const Exchange& round) {
  const auto& results = round.results();
  if (results.size() < 1 + places_.size() + asked_.size()) return pin("its temporary tables cannot be read: an answer that is not understood");
  for (std::size_t i = 0; i < places_.size(); ++i) {
    at_ = i;
    typed(results[1 + i]);
  }
  at_ = 0;
  for (std::size_t i = 0; i < asked_.size(); ++i) {
    const auto& result = results[1 + places_.size() + i];
    if (asked_[i].empty()) continue;
    const auto name = asked_[i].substr(1);
    if (asked_[i][0] == 'r') {
      bytes_ += result.copied.size();
      all_.rows[name] = result.copied;
    } else if (result.rows.size() == 1) {
      all_.sequences[name] = result.rows[0];
    }
  }
  probed(round);
  if (bytes_ > limits_.bytes) pin(fmt::format("its temporary tables have {} bytes, and at most {} are copied", bytes_, limits_.bytes));
}

void TemporaryReader::probed(const Exchange& round) {
  for (const auto& notice : round.notices()) {
    if (!notice.starts_with("building index \"")) continue;
    for (const auto& [told, table] : probes_)
      if (notice.find(fmt::format("\" on table \"{}\"", told)) != std::string::npos) all_.emptied.insert(table);
  }
}

void TemporaryReader::typed(const Exchange::Result& result) {
  const auto columns = described(places_[at_].columns);
  const auto& [name, binary] = found_.cursors[at_];
  Temporary::Cursor cursor{.name = name, .binary = binary, .columns = {}, .rows = {}};
  if (columns.empty() || result.rows.size() != 1 || result.rows[0].size() != columns.size())
    return pin(fmt::format("its cursor {} WITH HOLD has columns that are not understood", name));
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const auto type = result.rows[0][i].value_or("");
    if (type.empty() || type == "record" || type == "record[]" || type.starts_with("pg_temp") || type == "unknown")
      return pin(fmt::format("its cursor {} WITH HOLD has a column of type {}, which cannot be made again", name, type));
    cursor.columns.emplace_back(std::get<0>(columns[i]), type);
  }
  all_.cursors.push_back(std::move(cursor));
}

// How many rows are behind and before the place of each. It ends before the first row; or, where there are too many, where it was.
std::string TemporaryReader::places() const {
  std::string requests;
  for (const auto& [name, binary] : found_.cursors)
    for (const auto& move : {"RELATIVE 0"s, fmt::format("FORWARD {}", kMostRows + 1), fmt::format("BACKWARD {}", kMostRows + 1)})
      requests += aside(fmt::format("MOVE {} FROM {}", move, quote_name(name)));
  return requests;
}

void TemporaryReader::placed(const Exchange& round) {
  const auto& results = round.results();
  const auto first = 1 + places_.size() + asked_.size();
  for (std::size_t i = 0; i < places_.size() && first + 1 + 3 * i < results.size(); ++i) {
    auto& place = places_[i];
    place.on_row = number(results[first + 3 * i].tag) > 0;
    place.left = number(results[first + 1 + 3 * i].tag);
    const auto all = first + 2 + 3 * i < results.size() ? number(results[first + 2 + 3 * i].tag) : kMostRows + 1;
    // From so far behind, it went back to where it was.
    place.moved = place.left <= kMostRows;
    if (place.left > kMostRows || all > kMostRows) pin(fmt::format("its cursor {} WITH HOLD has more than {} rows", found_.cursors[i].first, kMostRows));
    if (!pinned_.empty()) continue;
    all_.cursors[i].position = place.on_row || place.left > 0 ? all - place.left : all + 1;
    all_.cursors[i].rows.resize(all);
  }
}

// Goes on to the next cursor that has rows to be read; or to put back what has not been, which comes first where it cannot be copied.
void TemporaryReader::after_rows() {
  while (pinned_.empty() && at_ < all_.cursors.size() && portion_ >= all_.cursors[at_].rows.size()) ++at_, portion_ = 0;
  if (pinned_.empty() && at_ < all_.cursors.size()) step_ = Step::rows;
  else step_ = std::ranges::any_of(places_, &Place::moved) ? Step::restore : Step::done;
}

// A few first; then so many as fit into what is left, by the longest of them.
std::size_t TemporaryReader::next_rows() const {
  const auto& rows = all_.cursors[at_].rows;
  std::size_t longest = 1;
  for (std::size_t i = 0; i < portion_; ++i) longest = std::max(longest, size_of(rows[i]));
  const auto left = limits_.bytes - std::min(limits_.bytes, bytes_);
  return std::min(portion_ == 0 ? kFirstRows : std::max<std::size_t>(1, left / longest), rows.size() - portion_);
}

// The last of them with what puts the cursor back.
Exchange TemporaryReader::ask_rows() const {
  const auto& cursor = all_.cursors[at_];
  const auto count = next_rows();
  auto requests = aside(kPlain) + aside(fmt::format("FETCH FORWARD {} FROM {}", count, quote_name(cursor.name)));
  if (portion_ + count == cursor.rows.size()) requests += put_back(at_);
  return Exchange(requests + message('S', ""), 1, 2 * limits_.bytes + kRoom);
}

void TemporaryReader::fetched(const Exchange& round) {
  auto& cursor = all_.cursors[at_];
  const auto& results = round.results();
  if (results.size() < 2 || results[1].rows.size() != next_rows()) return pin(fmt::format("its cursor {} WITH HOLD did not give its rows", cursor.name));
  for (const auto& row : results[1].rows) {
    bytes_ += size_of(row);
    cursor.rows[portion_++] = row;
  }
  if (bytes_ > limits_.bytes) pin(fmt::format("its temporary tables and cursors WITH HOLD have more than {} bytes, and no more are copied", limits_.bytes));
  if (portion_ == cursor.rows.size()) places_[at_].moved = false;  // put back in the same round
}

// Behind the last row first: from there it is told by what was left of it.
std::string TemporaryReader::put_back(std::size_t i) const {
  const auto& place = places_[i];
  const auto name = quote_name(found_.cursors[i].first);
  auto requests = aside("MOVE FORWARD ALL FROM " + name);
  if (place.on_row || place.left > 0) requests += aside(fmt::format("MOVE BACKWARD {} FROM {}", place.left + 1, name));
  return requests;
}

Exchange TemporaryReader::ask_restore() const {
  auto requests = aside(kPlain);
  for (std::size_t i = 0; i < places_.size(); ++i)
    if (places_[i].moved) requests += put_back(i);
  return Exchange(requests + message('S', ""), 1, kRoom);
}

namespace {

std::string declare(const Temporary::Cursor& cursor) {
  std::string columns, values;
  for (std::size_t i = 0; i < cursor.columns.size(); ++i)
    columns += fmt::format("{}CAST(v.c{} AS {}) AS {}", i == 0 ? "" : ", ", i, cursor.columns[i].second, quote_name(cursor.columns[i].first));
  for (const auto& row : cursor.rows) {
    values += values.empty() ? "(" : ", (";
    for (std::size_t i = 0; i < row.size(); ++i) values += (i == 0 ? "" : ", ") + (row[i] ? quote_literal(*row[i]) : "NULL") + "::pg_catalog.text";
    values += ')';
  }
  const auto nothing = [&] {
    std::string nulls;
    for (std::size_t i = 0; i < cursor.columns.size(); ++i) nulls += i == 0 ? "(NULL::pg_catalog.text" : ", NULL::pg_catalog.text";
    return nulls + ')';
  };
  std::string names;
  for (std::size_t i = 0; i < cursor.columns.size(); ++i) names += fmt::format("{}c{}", i == 0 ? "" : ", ", i);
  return fmt::format("DECLARE {} {}SCROLL CURSOR WITH HOLD FOR SELECT {} FROM (VALUES {}) AS v ({}){}", quote_name(cursor.name), cursor.binary ? "BINARY " : "", columns,
                     values.empty() ? nothing() : values, names, values.empty() ? " WHERE false" : "");
}

// Rows into a table, by the extended protocol: the server takes what comes behind Execute.
std::string copy_in(const std::string& copy, const std::string& rows) {
  const auto own = std::string(kOwnStatement) + "_too" + '\0';
  std::string out = message('C', "S" + own) + message('P', own + copy + " FROM STDIN\0\0\0"s) + message('B', own + own + "\0\0\0\0\0\0"s) + message('E', own + "\0\0\0\0"s);
  constexpr std::size_t kPiece = 64u << 10;
  for (std::size_t at = 0; at < rows.size(); at += kPiece) out += message('d', rows.substr(at, kPiece));
  return out + message('c', "") + message('C', "P" + own) + message('C', "S" + own);
}

}  // namespace

bool can_keep_tables(const Temporary& all) {
  return std::ranges::none_of(all.definitions, [](const auto& row) { return row[0] == "do" && row[1] == "7"; });
}

TemporaryMaking make_temporary(const Temporary& all, bool keep_tables) {
  if (all.empty()) return {};
  // First, for nothing may have been read: what the session's transactions are by default does not count.
  auto requests = aside("SET LOCAL transaction_read_only = off") + aside(kPlain);
  std::string role;
  for (const auto& row : all.definitions) {
    const auto& [kind, owner, name, sql] = std::tie(row[0], row[2], row[3], row[4]);
    if (kind == "fact" || (keep_tables && kind == "do")) continue;
    if (owner != role) requests += become(role = owner);
    if (kind == "table") {
      requests += keep_tables ? aside("TRUNCATE pg_temp." + quote_name(name) + " CASCADE") : made_by(sql + (all.emptied.contains(name) ? " ON COMMIT DELETE ROWS" : ""));
    } else if (kind == "copy") {
      if (const auto it = all.rows.find(name); it != all.rows.end() && !it->second.empty()) requests += copy_in(sql, it->second);
    } else if (kind == "sequence") {
      if (const auto it = all.sequences.find(name); it != all.sequences.end() && it->second.size() == 2)
        requests += aside(fmt::format("SELECT pg_catalog.setval({}::pg_catalog.regclass, {}, {})", quote_literal("pg_temp." + sql), it->second[0].value_or("1"),
                                      it->second[1].value_or("") == "t" ? "true" : "false"));
    } else {
      requests += made_by(sql);
    }
  }
  for (const auto& [owner, table] : all.analyze) requests += become(owner) + aside("ANALYZE pg_temp." + table);
  for (const auto& cursor : all.cursors) requests += aside(declare(cursor));
  requests += message('S', "");
  for (const auto& cursor : all.cursors) {
    if (cursor.position == 0) continue;
    const auto how = cursor.position > cursor.rows.size() ? "ALL"s : std::to_string(cursor.position);
    requests += aside(fmt::format("MOVE FORWARD {} FROM {}", how, quote_name(cursor.name)));
  }
  return {requests + message('S', ""), 2};
}

std::string difference(const Temporary& wanted, const Temporary& found) {
  for (std::size_t i = 0; i < std::max(wanted.definitions.size(), found.definitions.size()); ++i) {
    const auto text = [i](const Temporary& one) { return i < one.definitions.size() ? one.definitions[i][3] + ": " + one.definitions[i][4] : "nothing"; };
    if (text(wanted) != text(found)) return fmt::format("{} where it has {}", text(found), text(wanted));
  }
  if (wanted.emptied != found.emptied) return "other tables that lose their rows at a commit";
  for (const auto& [name, rows] : wanted.rows)
    if (const auto it = found.rows.find(name); it == found.rows.end() || it->second != rows) return "other rows in " + name;
  if (wanted.sequences != found.sequences) return "other values of sequences";
  for (std::size_t i = 0; i < wanted.cursors.size(); ++i)
    if (i >= found.cursors.size() || !(found.cursors[i] == wanted.cursors[i])) return "another cursor " + wanted.cursors[i].name;
  return wanted == found ? "" : "something else";
}

}  // namespace midstream::gate
