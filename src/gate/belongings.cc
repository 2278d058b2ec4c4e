#include "gate/belongings.h"

#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace midstream::gate {

namespace {

using namespace std::literals;

// Rows of (kind, a, b, c, d).
constexpr std::string_view kAsk = R"(
SELECT 'setting', name, pg_catalog.current_setting(name), '', '' FROM pg_catalog.pg_settings WHERE source = 'session'
UNION ALL SELECT 'user', CASE WHEN session_user <> $2::pg_catalog.name THEN session_user::pg_catalog.text ELSE '' END,
  pg_catalog.current_setting('role'), '', ''
UNION ALL SELECT CASE WHEN from_sql THEN 'sql' ELSE 'protocol' END, name, statement, '', '' FROM pg_catalog.pg_prepared_statements
UNION ALL SELECT 'channel', c, '', '', '' FROM pg_catalog.pg_listening_channels() AS c
UNION ALL SELECT 'cursor', name, is_scrollable::pg_catalog.text, is_binary::pg_catalog.text, '' FROM pg_catalog.pg_cursors WHERE is_holdable
UNION ALL SELECT 'lock', objsubid::pg_catalog.text, classid::pg_catalog.text, objid::pg_catalog.text, mode FROM pg_catalog.pg_locks
  WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() AND granted
UNION ALL SELECT 'temporary', '', '', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend
  WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND refobjid = pg_catalog.pg_my_temp_schema())
UNION ALL SELECT 'custom', n, pg_catalog.current_setting(n, true), '', '' FROM pg_catalog.unnest($1::pg_catalog.text[]) AS n
  WHERE pg_catalog.current_setting(n, true) IS NOT NULL)";

// In these a byte of a longer character may look like a quote or a backslash: texts in them cannot be quoted byte by byte.
constexpr std::array<std::string_view, 8> kHardEncodings{"SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004", "EUC_JIS_2004"};
// Below it a type has the same number on every server.
constexpr std::uint32_t kFirstOwnType = 16'384;

void append_value(std::string& to, std::string_view value) {
  append_u32(to, static_cast<std::uint32_t>(value.size()));
  to += value;
}

std::string array_literal(const std::set<std::string>& names) {
  std::string out = "{";
  for (const auto& name : names) out += (out.size() > 1 ? ",\"" : "\"") + name + '"';
  return out + '}';
}

bool name_character(char c) {
  return c == '_' || c == '$' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_at(std::string_view sql, std::size_t at, std::string_view word) {
  if (sql.size() - at <= word.size()) return false;
  return std::equal(word.begin(), word.end(), sql.begin() + static_cast<std::ptrdiff_t>(at),
                    [](char a, char b) { return a == (b >= 'A' && b <= 'Z' ? b + 32 : b); });
}

bool starts_word(std::string_view sql, std::size_t at, std::string_view word) { return !(at > 0 && name_character(sql[at - 1])) && is_at(sql, at, word); }

std::size_t skip(std::string_view sql, std::size_t from, const char* characters) {
  return std::min(sql.find_first_not_of(characters, from), sql.size());
}

bool ascii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// A Parse that names a type which another server may number otherwise.
bool own_types(std::string_view body) {
  if (!take_string(body) || !take_string(body) || body.size() < 2) return true;
  const auto count = read_u16(body);
  body.remove_prefix(2);
  for (int i = 0; i < count && body.size() >= 4; ++i, body.remove_prefix(4))
    if (read_u32(body) >= kFirstOwnType) return true;
  return false;
}

}  // namespace

std::string quote_literal(std::string_view text) {
  std::string out = text.find('\\') == std::string_view::npos ? "'" : " E'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out.push_back(c);
    out.push_back(c);
  }
  return out + '\'';
}

std::string quote_name(std::string_view name) {
  std::string out = "\"";
  for (const char c : name) {
    if (c == '"') out.push_back(c);
    out.push_back(c);
  }
  return out + '"';
}

CustomSettings custom_settings(std::string_view sql) {
  CustomSettings found;
  for (std::size_t at = 0; at < sql.size(); ++at) {
    const char lower = static_cast<char>(sql[at] | 0x20);
    if (lower == 'c' && !found.commit) found.commit = is_at(sql, at, "commit");
    if (lower != 's') continue;
    const bool call = starts_word(sql, at, "set_config");
    if (!call && !starts_word(sql, at, "set")) continue;
    auto from = skip(sql, at + (call ? 10 : 3), call ? " \t\r\n(" : " \t\r\n\"");
    if (call) {
      // A literal and nothing else; whatever is put together by the server cannot be read here.
      const auto close = from < sql.size() && sql[from] == '\'' ? sql.find('\'', from + 1) : std::string_view::npos;
      const auto after = close == std::string_view::npos ? sql.size() : skip(sql, close + 1, " \t\r\n");
      if (after == sql.size() || sql[after] != ',') {
        found.hidden = true;
        continue;
      }
      ++from;
    } else if (from + 1 < sql.size() && ((sql[from] == '/' && sql[from + 1] == '*') || (sql[from] == '-' && sql[from + 1] == '-'))) {
      found.hidden = true;
      continue;
    }
    for (const auto word : {"session"sv, "local"sv})
      if (!call && from < sql.size() && starts_word(sql, from, word)) from = skip(sql, from + word.size(), " \t\r\n\"");
    auto end = from;
    while (end < sql.size() && (name_character(sql[end]) || sql[end] == '.' || sql[end] == '"')) ++end;
    std::string name(sql.substr(from, end - from));
    std::erase(name, '"');
    const auto dot = name.find('.');
    if (dot != std::string::npos && dot > 0 && dot + 1 < name.size() && name.size() < 128) found.names.push_back(name);
  }
  return found;
}

Exchange ask_belongings(const std::set<std::string>& custom, std::string_view login, bool prepare) {
  const std::string own = std::string(kOwnStatement) + '\0';
  std::string values = "\0\0\0\2"s;  // no formats: text; two values
  append_value(values, array_literal(custom));
  append_value(values, login);
  // Its portal has a name of the gate's too: the client may have an unnamed one only within a transaction.
  // Closed first: an earlier preparation may have left it there, and there is no error where it did not.
  return Exchange((prepare ? message('C', "S" + own) + message('P', own + std::string(kAsk) + "\0\0\0"s) : "") + message('B', own + own + values + "\0\0"s) +
                      message('E', own + "\0\0\0\0"s) + message('S', ""),
                  1);
}

namespace {

// The server keeps the text of the whole simple query that a PREPARE stood in; only what is nothing but one PREPARE may be run
// again.
bool one_prepare(std::string_view sql) {
  sql = trim(sql);
  while (sql.ends_with(';')) sql = trim(sql.substr(0, sql.size() - 1));
  return starts_word(sql, 0, "prepare") && sql.find(';') == std::string_view::npos;
}

// Everything of `found` that goes as text to another server can be quoted, and means the same there.
std::string why_not_again(const Belongings& found, std::string_view encoding) {
  const bool hard = std::ranges::find(kHardEncodings, encoding) != kHardEncodings.end();
  const bool plain = std::ranges::all_of(found.settings, [](const auto& one) { return ascii(one.second); }) &&
                     std::ranges::all_of(found.sql_statements, [](const auto& one) { return ascii(one); }) &&
                     std::ranges::all_of(found.channels, [](const auto& one) { return ascii(one); });
  if (hard && !plain) return "its settings or statements are not ASCII, in the encoding " + std::string(encoding);
  for (const auto& statement : found.sql_statements)
    if (!one_prepare(statement)) return "a statement of it was prepared by SQL in one query with others, or with a ';' in it";
  for (const auto& [name, body] : found.protocol_statements)
    if (own_types(body)) return fmt::format("its prepared statement \"{}\" has a parameter of a type that is not built in", name);
  return "";
}

}  // namespace

std::expected<Known, std::string> read_belongings(const Exchange& answered, const Statements& statements, std::string_view encoding) {
  if (!answered.error().empty()) return std::unexpected(answered.error());
  Known known;
  auto& found = known.belongings;
  for (const auto& row : answered.rows()) {
    if (row.size() != 5) return std::unexpected("an answer that cannot be read");
    const auto& kind = row[0];
    if (kind == "setting" || kind == "custom") found.settings.emplace_back(row[1], row[2]);
    else if (kind == "user") found.session_user = row[1], found.role = row[2];
    else if (kind == "sql") found.sql_statements.push_back(row[2]);
    else if (kind == "channel") found.channels.push_back(row[1]);
    else if (kind == "lock") known.locks.push_back({row[1], row[2], row[3], row[4]});
    else if (kind == "temporary") known.temporary_tables = true;
    else if (kind == "cursor" && row[2] == "true") known.cursors.emplace_back(row[1], row[3] == "true");
    else if (kind == "cursor") known.pinned = fmt::format("its cursor {} WITH HOLD is NO SCROLL: its rows cannot be read without being used up", row[1]);
    else if (kind == "protocol" && !row[1].starts_with(kOwnStatement)) {
      const auto it = statements.all().find(row[1]);
      if (it == statements.all().end()) known.pinned = "the gate has not seen how its statement " + row[1] + " was prepared";
      else found.protocol_statements.emplace_back(*it);
    }
  }
  if (const auto it = statements.all().find(""); it != statements.all().end()) found.protocol_statements.emplace_back(*it);
  std::ranges::sort(found.settings);
  std::ranges::sort(found.protocol_statements);
  if (known.pinned.empty()) known.pinned = why_not_again(found, encoding);
  return known;
}

namespace {

// DISCARD ALL, but for the temporary tables.
constexpr std::string_view kDiscardMost =
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; CLOSE ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD PLANS; "
    "DISCARD SEQUENCES";

}  // namespace

Exchange make_again(const Belongings& belongings, bool discard, bool keep_tables) {
  std::string requests;
  int answers = 0;
  const auto query = [&](const std::string& sql) {
    requests += message('Q', sql + '\0');
    ++answers;
  };
  if (discard) query(keep_tables ? std::string(kDiscardMost) : "DISCARD ALL");
  std::string set;
  for (const auto& [name, value] : belongings.settings) {
    const auto one = fmt::format("pg_catalog.set_config({}, {}, false)", quote_literal(name), quote_literal(value));
    // First: the other texts are in it.
    if (name == "client_encoding") query("SELECT " + one);
    else set += (set.empty() ? "SELECT " : ", ") + one;
  }
  if (!set.empty()) query(set);
  if (!belongings.session_user.empty()) query("SET SESSION AUTHORIZATION " + quote_name(belongings.session_user));
  // Before the role, and before statements that speak of them.
  auto temporary = make_temporary(belongings.temporary, keep_tables);
  requests += temporary.requests;
  answers += temporary.answers;
  // Also where it is "none": the role may be set for logins.
  if (!belongings.role.empty()) query("SET ROLE " + quote_name(belongings.role));
  for (const auto& statement : belongings.sql_statements) query(statement);
  for (const auto& channel : belongings.channels) query("LISTEN " + quote_name(channel));
  // The unnamed statement last: a simple query would drop it.
  std::string unnamed;
  for (const auto& [name, body] : belongings.protocol_statements) (name.empty() ? unnamed : requests) += message('P', body);
  return Exchange(requests + unnamed + message('S', ""), answers + 1);
}

namespace {

std::string lock_again(const AdvisoryLock& lock) {
  const auto* function = lock.mode == "ShareLock" ? "pg_try_advisory_lock_shared" : "pg_try_advisory_lock";
  // objsubid 2: two keys of 32 bits; 1: one of 64, in two halves. pg_locks shows them without a sign.
  if (lock.objsubid == "2")
    return fmt::format("SELECT pg_catalog.{}({}::bigint::bit(32)::int, {}::bigint::bit(32)::int)", function, lock.classid, lock.objid);
  return fmt::format("SELECT pg_catalog.{}(({}::bigint << 32) | {}::bigint)", function, lock.classid, lock.objid);
}

}  // namespace

// A generic plan needs no values, and none is taken for constant. PL/pgSQL itself, which the title's triggers are written in, is
// loaded by this too.
constexpr std::string_view kWarm = R"(
DO $midstream$
DECLARE one record;
BEGIN
  PERFORM pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true);
  FOR one IN SELECT name, pg_catalog.cardinality(parameter_types) AS parameters FROM pg_catalog.pg_prepared_statements ORDER BY prepare_time DESC LIMIT 200 LOOP
    BEGIN
      EXECUTE 'EXPLAIN EXECUTE ' || pg_catalog.quote_ident(one.name) || CASE WHEN one.parameters > 0 THEN
        '(' || pg_catalog.array_to_string(pg_catalog.array_fill('NULL'::pg_catalog.text, ARRAY[one.parameters]), ', ') || ')' ELSE '' END;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  -- Where the title is read by triggers, what they need is read now. This side does not own: it is denied, and deletes nothing anyway.
  BEGIN
    DELETE FROM midstream.proof WHERE false;
  EXCEPTION WHEN OTHERS THEN NULL;
  END;
END $midstream$)";

Exchange take_locks(const std::vector<AdvisoryLock>& locks) {
  std::string requests;
  for (const auto& lock : locks) requests += aside(lock_again(lock));
  return Exchange(requests + message('S', ""), 1);
}

Exchange warm_up() { return Exchange(aside(std::string(kWarm)) + message('S', ""), 1); }

Exchange drop_locks() { return Exchange(aside("SELECT pg_catalog.pg_advisory_unlock_all()") + message('S', ""), 1); }

Exchange nothing() { return Exchange(message('S', ""), 1); }

std::string changed_parameters(const std::map<std::string, std::string>& told, const std::map<std::string, std::string>& now) {
  std::string messages;
  for (const auto& [name, value] : now) {
    const auto it = told.find(name);
    if (it == told.end() || it->second != value) messages += parameter_status(name, value);
  }
  return messages;
}

}  // namespace midstream::gate
