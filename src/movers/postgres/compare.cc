#include "movers/postgres/compare.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace midstream::postgres {

namespace {

constexpr std::int64_t kFirstBytes = 8 << 20;  // of rows in a table's first part
constexpr std::int64_t kFirstRows = 50'000;
constexpr std::int64_t kFoundAgain = 300'000;  // ms

}  // namespace

Result<Digest> digest_from(std::int64_t rows, std::string_view sum) {
  Digest digest{static_cast<std::uint64_t>(rows), 0};
  const bool negative = sum.starts_with('-');
  for (const char c : sum.substr(negative ? 1 : 0)) {
    if (c < '0' || c > '9') return corrupt(fmt::format("'{}' is no sum of hashes", printable(sum)));
    digest.sum = digest.sum * 10 + static_cast<std::uint64_t>(c - '0');
  }
  if (negative) digest.sum = 0 - digest.sum;
  return digest;
}

Json to_json(const Digest& digest) { return Json::array({digest.rows, digest.sum}); }

Result<Digest> digest_from_json(const Json& value) {
  const bool pair = value.is_array() && value.size() == 2 && value[0].is_number_integer() && value[1].is_number_integer();
  if (!pair) return corrupt("what the other side says of rows is no digest");
  return Digest{value[0].get<std::uint64_t>(), value[1].get<std::uint64_t>()};
}

void add(Buckets& sum, const Buckets& more) {
  for (const auto& [bucket, digest] : more) sum[bucket] += digest;
}

Json to_json(const Buckets& buckets) {
  Json out = Json::array();
  for (const auto& [bucket, digest] : buckets) out.push_back({bucket, digest.rows, digest.sum});
  return out;
}

Result<Buckets> buckets_from_json(const Json& value) {
  Buckets buckets;
  if (!value.is_array()) return corrupt("what the other side says of its buckets is no list");
  for (const auto& one : value) {
    if (!one.is_array() || one.size() != 3 || !one[0].is_number_integer()) return corrupt("a bucket is not [number, rows, sum]");
    buckets[one[0].get<int>()] = TRY(digest_from_json(Json::array({one[1], one[2]})));
  }
  return buckets;
}

std::vector<std::vector<int>> differing(const Buckets& one, const Buckets& other, std::uint64_t most_rows) {
  const auto of = [](const Buckets& buckets, int bucket) {
    const auto found = buckets.find(bucket);
    return found == buckets.end() ? Digest{} : found->second;
  };
  std::set<int> all;
  for (const auto& [bucket, digest] : one) all.insert(bucket);
  for (const auto& [bucket, digest] : other) all.insert(bucket);
  std::vector<std::vector<int>> runs;
  std::uint64_t rows = 0;
  for (const int bucket : all) {
    const auto mine = of(one, bucket), theirs = of(other, bucket);
    if (mine == theirs) continue;
    const auto larger = std::max(mine.rows, theirs.rows);
    if (runs.empty() || rows + larger > most_rows) {
      runs.emplace_back();
      rows = 0;
    }
    runs.back().push_back(bucket);
    rows += larger;
  }
  return runs;
}

Pace::Pace(std::int64_t row_bytes, std::int64_t target_ms, std::int64_t most_rows)
    : most_(std::max(most_rows, kFewest)),
      rows_(std::clamp(kFirstBytes / std::max<std::int64_t>(row_bytes, 1), kFewest, std::min(kFirstRows, most_))),
      target_ms_(target_ms) {}

void Pace::took(std::int64_t ms) {
  const auto wanted = rows_ * target_ms_ / std::max<std::int64_t>(ms, 1);
  rows_ = std::clamp(std::clamp(wanted, rows_ / 2, rows_ * 2), kFewest, most_);
}

Result<RowDigests> row_digests_from_json(const Json& value) {
  RowDigests rows;
  if (!value.is_object()) return corrupt("what the other side says of its rows is no object");
  for (const auto& [key, digest] : value.items()) {
    if (!digest.is_string()) return corrupt("the digest of a row is no text");
    rows[key] = digest.get<std::string>();
  }
  return rows;
}

std::set<std::string> differing(const RowDigests& one, const RowDigests& other) {
  std::set<std::string> keys;
  for (const auto& [key, digest] : one) {
    const auto found = other.find(key);
    if (found == other.end() || found->second != digest) keys.insert(key);
  }
  for (const auto& [key, digest] : other)
    if (!one.contains(key)) keys.insert(key);
  return keys;
}

void Relook::look(const RowDigests& before, const RowDigests& there, const RowDigests& after) {
  ++looks_;
  const auto of = [](const RowDigests& rows, const std::string& key) {
    const auto found = rows.find(key);
    return found == rows.end() ? std::string() : found->second;
  };
  std::erase_if(open_, [&](const std::string& key) {
    const auto then = of(before, key), follower = of(there, key), now = of(after, key);
    if (follower == then || follower == now) return true;
    if (then != now) return false;
    if (++strikes_[key] < kStrikes) return false;
    bad_.insert(key);
    return true;
  });
}

void Progress::begin(std::string new_cut, std::int64_t now_ms) {
  if (new_cut != cut) clean_ms = 0;
  Progress fresh_one;
  fresh_one.cut = std::move(new_cut);
  fresh_one.running = true;
  fresh_one.began_ms = now_ms;
  fresh_one.age_ms = age_ms;
  fresh_one.clean_ms = clean_ms;
  *this = std::move(fresh_one);
}

void Progress::passed(const std::string& name, const Json& key) {
  table = name;
  after = key;
  in_table = true;
}

void Progress::passed_all(const std::string& name) {
  table = name;
  after = nullptr;
  in_table = false;
  ++tables;
}

void Progress::end() {
  running = false;
  clean_ms = findings.empty() ? began_ms : 0;
}

bool Progress::due(std::int64_t now_ms) const {
  if (running) return false;
  if (!findings.empty()) return now_ms - began_ms - took_ms > kFoundAgain;
  return clean_ms > 0 && (clean_ms > now_ms || now_ms - clean_ms > age_ms / 2);
}

bool Progress::fresh(const std::string& now_cut, std::int64_t now_ms, std::int64_t age_ms) const {
  return clean_ms > 0 && cut == now_cut && clean_ms <= now_ms && now_ms - clean_ms <= age_ms;
}

Json to_json(const Progress& progress) {
  Json findings = Json::array();
  for (const auto& one : progress.findings) findings.push_back({{"what", one.what}, {"rows", one.rows}, {"keys", one.keys}});
  return {{"cut", progress.cut},
          {"running", progress.running},
          {"began_ms", progress.began_ms},
          {"age_ms", progress.age_ms},
          {"clean_ms", progress.clean_ms},
          {"table", progress.table},
          {"after", progress.after},
          {"in_table", progress.in_table},
          {"tables", progress.tables},
          {"rows", progress.rows},
          {"took_ms", progress.took_ms},
          {"findings", std::move(findings)}};
}

Result<Progress> progress_from_json(const Json& value) {
  Progress progress;
  progress.cut = TRY(get_string(value, "cut"));
  progress.running = TRY(get_bool(value, "running"));
  progress.began_ms = TRY(get_int(value, "began_ms"));
  progress.age_ms = TRY(get_int(value, "age_ms"));
  progress.clean_ms = TRY(get_int(value, "clean_ms"));
  progress.table = TRY(get_string(value, "table"));
  progress.after = value.value("after", Json(nullptr));
  progress.in_table = TRY(get_bool(value, "in_table"));
  progress.tables = TRY(get_int(value, "tables"));
  progress.rows = TRY(get_int(value, "rows"));
  progress.took_ms = TRY(get_int(value, "took_ms"));
  for (const auto& one : value.value("findings", Json::array())) {
    Progress::Finding finding;
    finding.what = TRY(get_string(one, "what"));
    finding.rows = TRY(get_int(one, "rows"));
    finding.keys = TRY(get_strings(one, "keys"));
    progress.findings.push_back(std::move(finding));
  }
  return progress;
}

std::string words_of(const std::vector<Progress::Finding>& findings) {
  std::vector<std::string> words;
  for (const auto& one : findings)
    words.push_back(fmt::format("{}: {} rows, with keys {}", one.what, one.rows, join(one.keys, " ")));
  return join(words, "; ");
}

}  // namespace midstream::postgres
