#include "movers/postgres/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <iterator>

#include "base/text.h"
#include "movers/postgres/carry.h"
#include "movers/postgres/digests.h"

namespace midstream::postgres {

namespace {

constexpr std::int64_t kStatementMs = 300;  // what one statement shall take
constexpr std::uint64_t kMostListed = 20'000;  // rows that are listed at once
constexpr std::size_t kMostLooked = 1'000;     // rows in one statement
constexpr std::int64_t kHopeless = 10'000;     // found to differ in one table: the rest of it is not looked at
constexpr int kLooks = 4;                      // without a lock
constexpr int kPins = 10;                      // with one, where others may be in the way
constexpr int kMoreLooks = 30;                 // where there is no key to hold a row by
constexpr std::int64_t kPageBytes = 8192;
constexpr Millis kKeep{250};         // what is compared is noted so often
constexpr std::size_t kShown = 10;  // keys of what was found in one table

constexpr const char* kOneSided = "tables that are on one side only";
constexpr const char* kSequences = "sequences";
constexpr const char* kObjects = "large objects";

std::int64_t ms_since(std::chrono::nanoseconds start) { return std::chrono::duration_cast<Millis>(boot_now() - start).count(); }

// ["7", "x"] as a key is shown to people: (7,x).
std::string words_of_key(const std::string& key) {
  const auto parsed = parse_json(key);
  if (!parsed || !parsed->is_array()) return key;
  std::vector<std::string> parts;
  for (const auto& one : *parsed) parts.push_back(one.is_string() ? one.get<std::string>() : one.dump());
  return fmt::format("({})", join(parts, ","));
}

Json keys_json(const Json& key, const std::vector<std::string>& keys) {
  Json out = Json::array();
  for (const auto& one : keys) {
    auto parsed = key.empty() ? Result<Json>(Json(one)) : parse_json(one);
    if (parsed) out.push_back(std::move(*parsed));
  }
  return out;
}

std::vector<std::vector<std::string>> in_slices(const std::set<std::string>& keys, std::size_t most) {
  std::vector<std::vector<std::string>> out;
  for (const auto& key : keys) {
    if (out.empty() || out.back().size() >= most) out.emplace_back();
    out.back().push_back(key);
  }
  return out;
}

}  // namespace

Result<Comparison::Both> Comparison::both(const Asked& one) const {
  auto follower = std::async(std::launch::async, [&] { return one(false); });
  auto here = one(true);
  auto there = follower.get();
  Both answers;
  answers.owner = TRY(std::move(here));
  answers.follower = TRY(std::move(there));
  return answers;
}

Result<Comparison::Both> Comparison::both(std::string_view verb, const Json& args) const {
  return both([&](bool owner) { return ask_(owner, verb, args); });
}

Result<> Comparison::run() {
  began_ = boot_now();
  took_before_ = progress_.took_ms;
  figures_.began_ms = std::chrono::duration_cast<Millis>(began_).count();
  // These are compared from the start whenever a comparison goes on.
  std::erase_if(progress_.findings, [](const auto& one) { return one.what == kOneSided || one.what == kSequences || one.what == kObjects; });
  const auto list = TRY(tables());
  CHECK_OK(ask_(false, "report_promptly", Json::object()));
  CHECK_OK(compare_sequences());
  CHECK_OK(compare_objects());
  for (const auto& table : list) {
    if (progress_.is_done(table.name)) continue;
    CHECK_OK(table.key.empty() ? by_pages(table) : by_range(table));
    progress_.passed_all(table.name);
    ++figures_.tables_done;
    CHECK_OK(keep_now_and_then());
  }
  progress_.took_ms = took_before_ + ms_since(began_);
  progress_.end();
  return keep_(progress_);
}

Result<> Comparison::keep_now_and_then() {
  if (boot_now() - kept_ < kKeep) return {};
  kept_ = boot_now();
  progress_.took_ms = took_before_ + ms_since(began_);
  return keep_(progress_);
}

Result<std::vector<Comparison::Table>> Comparison::tables() {
  const auto lists = TRY(both("subjects", Json::object()));
  std::set<std::string> there, here, exact;
  for (const auto& one : lists.follower.value("tables", Json::array())) {
    const auto name = TRY(get_string(one, "table"));
    there.insert(name);
    if (get_bool_or(one, "exact", false)) exact.insert(name);
  }
  std::vector<Table> out;
  figures_.rows_total = 0;
  figures_.tables_done = 0;
  figures_.rows_done = progress_.rows;
  figures_.rows_now = 0;
  for (const auto& one : lists.owner.value("tables", Json::array())) {
    Table table;
    table.name = TRY(get_string(one, "table"));
    table.key = one.value("key", Json::array());
    table.rows = TRY(get_int(one, "rows"));
    table.bytes = TRY(get_int(one, "bytes"));
    table.exact = get_bool_or(one, "exact", false) && exact.contains(table.name);
    here.insert(table.name);
    figures_.rows_total += table.rows;
    if (progress_.is_done(table.name)) ++figures_.tables_done;
    if (there.contains(table.name)) out.push_back(std::move(table));
  }
  std::ranges::sort(out, {}, &Table::name);
  figures_.tables = static_cast<int>(out.size());
  std::set<std::string> one_sided;
  std::ranges::set_symmetric_difference(here, there, std::inserter(one_sided, one_sided.end()));
  found(kOneSided, one_sided);
  return out;
}

// The follower has exactly what it was given, or somebody else has changed it.
Result<> Comparison::compare_sequences() {
  const auto owner = TRY(ask_(true, "sequences", Json::object()));
  const auto follower = TRY(ask_(false, "take_sequences", owner));
  const auto as_rows = [](const Json& answer) {
    RowDigests rows;
    for (const auto& one : answer.value("list", Json::array())) rows[one.at(0).get<std::string>()] = one.dump();
    return rows;
  };
  found(kSequences, differing(as_rows(owner), as_rows(follower)));
  return {};
}

Result<> Comparison::compare_objects() {
  for (std::int64_t after = 0;;) {
    Json range{{"after", after}};
    const auto owner = TRY(ask_(true, "objects", range));
    range["until"] = TRY(get_int(owner, "until"));
    const auto follower = TRY(ask_(false, "objects", range));
    std::map<std::int64_t, std::string> mine, theirs, noted;
    for (const auto& one : owner.at("list")) mine[one.at(0).get<std::int64_t>()] = one.at(1).get<std::string>();
    for (const auto& one : follower.at("list")) {
      theirs[one.at(0).get<std::int64_t>()] = one.at(1).get<std::string>();
      noted[one.at(0).get<std::int64_t>()] = one.at(2).get<std::string>();
    }
    std::set<std::string> differ;
    for (const auto& [oid, digest] : mine)
      if (theirs[oid] != digest) differ.insert(std::to_string(oid));
    for (const auto& [oid, digest] : theirs)
      if (mine[oid] != digest) differ.insert(std::to_string(oid));
    // What was changed on the owner, or taken away, since it was carried. Anything else is for settle_objects to judge.
    for (const auto& [oid, digest] : mine)
      if (!digest.empty() && noted[oid] != digest) CHECK_OK(carry_object(oid, digest));
    for (const auto& [oid, digest] : noted)
      if (!digest.empty() && mine[oid].empty()) CHECK_OK(ask_(false, "take_object", {{"oid", oid}, {"gone", true}}));
    if (!differ.empty()) CHECK_OK(settle_objects(std::move(differ), range));
    CHECK_OK(keep_now_and_then());
    after = TRY(get_int(owner, "until"));
    if (after == 0) return {};
  }
}

Result<> Comparison::settle_objects(std::set<std::string> keys, const Json& range) {
  Relook again(std::move(keys));
  figures_.looked_again += static_cast<std::int64_t>(again.open().size());
  const auto as_rows = [](const Json& answer) {
    RowDigests rows;
    for (const auto& one : answer.at("list"))
      if (const auto digest = one.at(1).get<std::string>(); !digest.empty()) rows[std::to_string(one.at(0).get<std::int64_t>())] = digest;
    return rows;
  };
  for (int round = 0; !again.open().empty(); ++round) {
    if (round > kMoreLooks) return retry(fmt::format("large objects change at every look: {}", *again.open().begin()));
    const auto before = TRY(ask_(true, "objects", range));
    const auto there = TRY(ask_(false, "objects", range));
    std::map<std::int64_t, std::string> noted;
    for (const auto& one : there.at("list")) noted[one.at(0).get<std::int64_t>()] = one.at(2).get<std::string>();
    const auto after = TRY(ask_(true, "objects", range));
    again.look(as_rows(before), as_rows(there), as_rows(after));
    for (const auto& one : after.at("list")) {
      const auto oid = one.at(0).get<std::int64_t>();
      const auto digest = one.at(1).get<std::string>();
      if (again.open().contains(std::to_string(oid)) && noted[oid] != digest) CHECK_OK(carry_object(oid, digest));
    }
  }
  found(kObjects, again.bad());
  return {};
}

Result<> Comparison::carry_object(std::int64_t oid, const std::string& digest) {
  for (std::int64_t offset = 0;;) {
    auto piece = TRY(ask_(true, "object", {{"oid", oid}, {"offset", offset}}));
    if (get_bool_or(piece, "gone", false)) return {};
    piece.update({{"oid", oid}, {"offset", offset}, {"digest", digest}});
    CHECK_OK(ask_(false, "take_object", piece));
    if (!get_bool_or(piece, "more", false)) return {};
    offset += kObjectPiece;
  }
}

// The owner finds where the next range ends while both sides digest this one.
Result<> Comparison::by_range(const Table& table) {
  Pace pace(table.bytes / std::max<std::int64_t>(table.rows, 1), kStatementMs, most_rows_);
  Json after = progress_.table == table.name && progress_.in_table ? progress_.after : Json(nullptr);
  const auto walk = [&](const Json& from) {
    auto asked = table.named("after", from);
    asked["rows"] = pace.rows();
    return ask_(true, "walk", std::move(asked));
  };
  auto until = TRY(walk(after)).value("until", Json(nullptr));
  while (!hopeless(table.name)) {
    auto part = table.named("after", after);
    part["until"] = until;
    std::future<Result<Json>> next;
    if (!until.is_null()) next = std::async(std::launch::async, [&, from = until] { return walk(from); });
    const auto start = boot_now();
    auto digests = both("digest", part);
    const auto took = ms_since(start);
    auto walked = next.valid() ? next.get() : Result<Json>(Json::object());
    const auto [owner, follower] = TRY(std::move(digests));
    const auto mine = TRY(digest_from_json(owner.value("digest", Json())));
    if (mine != TRY(digest_from_json(follower.value("digest", Json())))) CHECK_OK(sort_out(table, part));
    progress_.rows += static_cast<std::int64_t>(mine.rows);
    figures_.rows_done += static_cast<std::int64_t>(mine.rows);
    figures_.rows_now += static_cast<std::int64_t>(mine.rows);
    if (until.is_null()) return {};
    pace.took(took);
    after = until;
    until = TRY(std::move(walked)).value("until", Json(nullptr));
    progress_.passed(table.name, after);
    CHECK_OK(keep_now_and_then());
  }
  return {};
}

Result<> Comparison::sort_out(const Table& table, const Json& part) {
  const auto answers = TRY(both("digest_buckets", part));
  return sort_out_buckets(table, part, TRY(buckets_from_json(answers.owner.value("buckets", Json()))),
                          TRY(buckets_from_json(answers.follower.value("buckets", Json()))));
}

Result<> Comparison::sort_out_buckets(const Table& table, const Json& part, const Buckets& mine, const Buckets& theirs) {
  for (const auto& run : differing(mine, theirs, kMostListed)) {
    auto asked = part;
    asked["wanted"] = run;
    auto follower = std::async(std::launch::async, [&] { return rows_of(table, false, "digest_rows", asked); });
    const auto owner = rows_of(table, true, "digest_rows", asked);
    const auto other = follower.get();
    if (!owner) return std::unexpected(owner.error());
    if (!other) return std::unexpected(other.error());
    CHECK_OK(look_again(table, differing(*owner, *other)));
    if (hopeless(table.name)) return {};
  }
  return {};
}

Result<> Comparison::by_pages(const Table& table) {
  const auto part = table.named();
  Buckets sums[2];
  std::atomic<std::int64_t> rows = 0;
  CHECK_OK(both([&](bool owner) {
    return through_pages(owner, "digest_buckets", part, [&, owner](const Json& answer) -> Result<bool> {
      const auto buckets = TRY(buckets_from_json(answer.value("buckets", Json())));
      add(sums[owner ? 1 : 0], buckets);
      for (const auto& [bucket, digest] : buckets) rows += owner ? static_cast<std::int64_t>(digest.rows) : 0;
      return true;
    });
  }));
  CHECK_OK(sort_out_buckets(table, part, sums[1], sums[0]));
  progress_.rows += rows;
  figures_.rows_done += rows;
  figures_.rows_now += rows;
  return {};
}

Result<Json> Comparison::through_pages(bool owner, std::string_view verb, Json args,
                                       const std::function<Result<bool>(const Json&)>& take) const {
  Pace pace(kPageBytes, kStatementMs, most_rows_);
  for (std::int64_t first = 0;;) {
    args["first"] = first;
    args["count"] = pace.rows();
    const auto start = boot_now();
    const auto answer = TRY(ask_(owner, verb, args));
    if (!TRY(take(answer)) || !get_bool_or(answer, "more", false)) return Json::object();
    first += pace.rows();
    pace.took(ms_since(start));
  }
}

Result<RowDigests> Comparison::rows_of(const Table& table, bool owner, std::string_view verb, Json args) const {
  if (!table.key.empty()) return row_digests_from_json(TRY(ask_(owner, verb, std::move(args))).value("rows", Json()));
  // The same row's copies may be on several slices.
  std::map<std::string, Digest> sums;
  CHECK_OK(through_pages(owner, verb, std::move(args), [&](const Json& answer) -> Result<bool> {
    for (const auto& [key, text] : TRY(row_digests_from_json(answer.value("rows", Json())))) {
      const auto at = text.find(':');
      if (at == std::string::npos) return corrupt("the digest of a row is not count:sum");
      sums[key] += TRY(digest_from(std::atoll(text.c_str()), text.substr(at + 1)));
    }
    return true;
  }));
  RowDigests out;
  for (const auto& [key, digest] : sums) out[key] = fmt::format("{}:{}", digest.rows, digest.sum);
  return out;
}

Result<RowDigests> Comparison::look(const Table& table, bool owner, const std::set<std::string>& keys) const {
  RowDigests all;
  for (const auto& slice : in_slices(keys, kMostLooked))
    all.merge(TRY(rows_of(table, owner, "digest_keys", table.named("keys", keys_json(table.key, slice)))));
  return all;
}

Result<> Comparison::look_again(const Table& table, std::set<std::string> candidates) {
  figures_.looked_again += static_cast<std::int64_t>(candidates.size());
  Relook again(std::move(candidates));
  const int most = table.key.empty() ? kMoreLooks : kLooks;
  while (!again.open().empty() && again.looks() < most) {
    const auto keys = again.open();
    const auto before = TRY(look(table, true, keys));
    CHECK_OK(ask_(true, "settle_lag", Json::object()));
    const auto there = TRY(look(table, false, keys));
    again.look(before, there, TRY(look(table, true, keys)));
  }
  auto bad = again.bad();
  if (!again.open().empty() && table.key.empty()) return retry(fmt::format("rows of {} change at every look", table.name));
  if (!again.open().empty()) bad.merge(TRY(pinned(table, again.open())));
  if (table.key.empty() && !bad.empty()) {
    found(table.name, bad, TRY(rows_shown(table, bad)));
  } else {
    found(table.name, bad);
  }
  return {};
}

Result<std::vector<std::string>> Comparison::rows_shown(const Table& table, const std::set<std::string>& hashes) const {
  std::vector<std::string> shown;
  for (const auto& hash : hashes) {
    if (shown.size() >= kShown) break;
    std::string name;
    for (const bool owner : {true, false}) {
      if (!name.empty()) break;
      CHECK_OK(through_pages(owner, "name_row", table.named("hash", hash), [&](const Json& answer) -> Result<bool> {
        name = get_string_or(answer, "name", "");
        return name.empty();
      }));
    }
    shown.push_back(name);
  }
  return shown;
}

Result<std::set<std::string>> Comparison::pinned(const Table& table, const std::set<std::string>& keys) const {
  std::set<std::string> bad;
  for (const auto& slice : in_slices(keys, kMostPinned)) {
    const auto args = table.named("keys", keys_json(table.key, slice));
    for (int pin = 0;; ++pin) {
      const auto answer = ask_(true, "pinned_rows", args);
      if (!answer && (answer.error().kind != ErrorKind::retry || pin >= kPins)) return std::unexpected(answer.error());
      if (!answer) {
        (void)pause_for(Millis(50), {});
        continue;
      }
      for (const auto& key : TRY(get_strings(*answer, "differing"))) bad.insert(key);
      break;
    }
  }
  return bad;
}

bool Comparison::hopeless(const std::string& what) const {
  return std::ranges::any_of(progress_.findings, [&](const auto& one) { return one.what == what && one.rows >= kHopeless; });
}

void Comparison::found(const std::string& what, const std::set<std::string>& keys, const std::vector<std::string>& shown) {
  if (keys.empty()) return;
  auto& all = progress_.findings;
  auto at = std::ranges::find(all, what, &Progress::Finding::what);
  if (at == all.end()) at = all.insert(all.end(), {what, 0, {}});
  at->rows += static_cast<std::int64_t>(keys.size());
  for (const auto& one : shown)
    if (at->keys.size() < kShown) at->keys.push_back(printable(one.substr(0, 60)));
}

void Comparison::found(const std::string& what, const std::set<std::string>& keys) {
  std::vector<std::string> shown;
  for (const auto& key : keys)
    if (shown.size() < kShown) shown.push_back(words_of_key(key));
  found(what, keys, shown);
}

}  // namespace midstream::postgres
