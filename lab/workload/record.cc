#include "lab/workload/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

namespace midstream::lab {
namespace {

constexpr std::array<std::string_view, 8> kTypes{"start",   "attempted", "acknowledged", "failed",
                                                 "unknown", "end",       "seen",         "violation"};
constexpr std::array<std::string_view, 13> kKinds{"order",    "order-read", "upload",    "file-read", "static-read",
                                                  "db-order", "deliver",    "submit",    "mail-read", "flag",
                                                  "move",     "expunge",    "pop-read"};

template <class Enum, std::size_t N>
Result<Enum> enum_from(const std::array<std::string_view, N>& names, std::string_view what,
                       const std::string& name) {
  const auto at = std::find(names.begin(), names.end(), name);
  if (at == names.end()) return corrupt(fmt::format("ledger: unknown {} '{}'", what, name));
  return static_cast<Enum>(at - names.begin());
}

bool is_outcome(RecordType type) {
  return type == RecordType::acknowledged || type == RecordType::failed || type == RecordType::unknown;
}

void put_mail(Json& out, const Record& record) {
  const auto& mail = record.mail;
  out["user"] = mail.user;
  if (!mail.folder.empty()) out["folder"] = mail.folder;
  if (!mail.change.empty()) out["change"] = mail.change;
  if (mail.uidvalidity != 0) out["uidvalidity"] = mail.uidvalidity;
  if (mail.uid != 0) out["uid"] = mail.uid;
  if (mail.maybe != 0) out["maybe"] = mail.maybe;
}

Result<> get_mail(Record& record, const Json& in) {
  auto& mail = record.mail;
  mail.user = TRY(get_string(in, "user"));
  mail.folder = get_string_or(in, "folder", "");
  mail.change = get_string_or(in, "change", "");
  mail.uidvalidity = get_int_or(in, "uidvalidity", 0);
  mail.uid = get_int_or(in, "uid", 0);
  mail.maybe = static_cast<int>(get_int_or(in, "maybe", 0));
  return {};
}

bool is_remark(RecordType type) { return type == RecordType::seen || type == RecordType::violation; }

void put_operation(Json& out, const Record& record) {
  out["op"] = record.op;
  out["kind"] = to_string(record.kind);
  out["lane"] = record.lane;
  if (!record.key.empty()) out["key"] = record.key;
  if (is_mail(record.kind)) put_mail(out, record);
}

void put_content(Json& out, const Record& record) {
  if (record.kind == OpKind::order || record.kind == OpKind::db_order) {
    out["customer"] = record.customer;
    out["amount"] = record.amount;
    out["items"] = record.items;
  } else if (record.kind == OpKind::upload) {
    out["size"] = record.size;
    out["sha256"] = record.sha256;
  }
}

Result<> get_content(Record& record, const Json& in) {
  if (record.kind == OpKind::order || record.kind == OpKind::db_order) {
    record.customer = TRY(get_string(in, "customer"));
    record.amount = TRY(get_int(in, "amount"));
    record.items = TRY(get_strings(in, "items"));
  } else if (record.kind == OpKind::upload) {
    record.size = TRY(get_int(in, "size"));
    record.sha256 = TRY(get_string(in, "sha256"));
  }
  return {};
}

}  // namespace

std::string_view to_string(RecordType type) {
  return kTypes[static_cast<std::size_t>(type)];
}
std::string_view to_string(OpKind kind) {
  return kKinds[static_cast<std::size_t>(kind)];
}
bool is_mail(OpKind kind) { return kind >= OpKind::deliver; }
std::string_view service_of(OpKind kind) {
  return is_mail(kind) ? "mail" : kind == OpKind::db_order ? "db" : "web";
}

std::string to_line(const Record& record) {
  Json out = Json::object();
  out["t"] = to_string(record.type);
  out["boot_ns"] = record.boot_ns;
  out["wall_ms"] = record.wall_ms;
  if (record.type == RecordType::start) {
    out["v"] = 1;
    out["prefix"] = record.prefix;
    out["boot_id"] = record.boot_id;
  }
  if (record.type == RecordType::attempted) {
    put_operation(out, record);
    put_content(out, record);
  }
  if (is_remark(record.type)) {
    put_operation(out, record);
    if (!record.why.empty()) out["why"] = record.why;
  }
  if (is_outcome(record.type)) {
    put_operation(out, record);
    out["started_ns"] = record.started_ns;
    out["tries"] = record.tries;
    if (record.status != 0) out["status"] = record.status;
    if (!record.host.empty()) out["host"] = record.host;
    if (record.id != 0) out["id"] = record.id;
    if (!record.why.empty()) out["why"] = record.why;
  }
  return out.dump(-1, ' ', true, Json::error_handler_t::replace);
}

Result<Record> parse_record(std::string_view line) {
  const Json in = TRY(parse_json(line));
  Record record;
  record.type = TRY(enum_from<RecordType>(kTypes, "record", TRY(get_string(in, "t"))));
  record.boot_ns = TRY(get_int(in, "boot_ns"));
  record.wall_ms = TRY(get_int(in, "wall_ms"));
  if (record.type == RecordType::start) {
    if (get_int_or(in, "v", 0) != 1) return corrupt("ledger: its version is not 1");
    record.prefix = TRY(get_string(in, "prefix"));
    record.boot_id = TRY(get_string(in, "boot_id"));
  }
  if (record.type == RecordType::start || record.type == RecordType::end) return record;
  record.op = static_cast<std::uint64_t>(TRY(get_int(in, "op")));
  record.kind = TRY(enum_from<OpKind>(kKinds, "kind", TRY(get_string(in, "kind"))));
  record.lane = static_cast<int>(TRY(get_int(in, "lane")));
  record.key = get_string_or(in, "key", "");
  if (is_mail(record.kind)) CHECK_OK(get_mail(record, in));
  if (record.type == RecordType::attempted) {
    CHECK_OK(get_content(record, in));
  } else if (is_remark(record.type)) {
    record.why = get_string_or(in, "why", "");
  } else {
    record.started_ns = TRY(get_int(in, "started_ns"));
    record.tries = static_cast<int>(TRY(get_int(in, "tries")));
    record.status = static_cast<int>(get_int_or(in, "status", 0));
    record.host = get_string_or(in, "host", "");
    record.id = get_int_or(in, "id", 0);
    record.why = get_string_or(in, "why", "");
  }
  return record;
}

Result<std::vector<Record>> parse_ledger(std::string_view text) {
  std::vector<Record> records;
  while (true) {
    const auto end = text.find('\n');
    if (end == std::string_view::npos) break;
    auto record = parse_record(text.substr(0, end));
    if (!record) return with_context(record.error(), fmt::format("line {}", records.size() + 1));
    records.push_back(*std::move(record));
    text.remove_prefix(end + 1);
  }
  return records;
}

namespace {

// One lane's wait, as records of it come by.
struct Wait {
  bool in_flight = false;
  std::optional<std::int64_t> since_ns;  // start of the first operation that has not been made good yet
};

struct Tally {
  ServiceFigures figures;
  std::vector<std::int64_t> latencies_us;
  std::map<int, Wait> lanes;
};

void count_outcome(Tally& tally, const Record& record) {
  auto& wait = tally.lanes[record.lane];
  wait.in_flight = false;
  if (!wait.since_ns) wait.since_ns = record.started_ns;
  if (record.type == RecordType::acknowledged) {
    ++tally.figures.acknowledged;
    if (record.tries > 1) ++tally.figures.retried;
    if (!record.host.empty()) ++tally.figures.hosts[record.host];
    tally.latencies_us.push_back((record.boot_ns - record.started_ns) / 1000);
    tally.figures.longest_pause_us =
        std::max(tally.figures.longest_pause_us, (record.boot_ns - *wait.since_ns) / 1000);
    wait.since_ns.reset();
  } else {
    ++tally.figures.failed;
    if (record.type == RecordType::unknown) ++tally.figures.unknown;
  }
}

std::int64_t percentile(std::vector<std::int64_t>& values, int percent) {
  if (values.empty()) return 0;
  const auto at = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) * percent / 100);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace

std::map<std::string, ServiceFigures> summarise(const std::vector<Record>& records) {
  std::map<std::string, Tally> tallies;
  std::int64_t last_ns = 0;
  for (const auto& record : records) {
    if (record.type == RecordType::start || record.type == RecordType::end || is_remark(record.type)) continue;
    auto& tally = tallies[std::string(service_of(record.kind))];
    last_ns = std::max(last_ns, record.boot_ns);
    if (record.type == RecordType::attempted) {
      ++tally.figures.requests;
      tally.lanes[record.lane].in_flight = true;
    } else {
      count_outcome(tally, record);
    }
  }
  std::map<std::string, ServiceFigures> out;
  for (auto& [service, tally] : tallies) {
    for (const auto& [lane, wait] : tally.lanes) {
      if (wait.in_flight) ++tally.figures.unknown;
      if (wait.since_ns) {
        tally.figures.longest_pause_us =
            std::max(tally.figures.longest_pause_us, (last_ns - *wait.since_ns) / 1000);
      }
    }
    tally.figures.p50_us = percentile(tally.latencies_us, 50);
    tally.figures.p95_us = percentile(tally.latencies_us, 95);
    tally.figures.p99_us = percentile(tally.latencies_us, 99);
    out[service] = tally.figures;
  }
  return out;
}

Json to_json(const std::map<std::string, ServiceFigures>& figures) {
  Json out = Json::object();
  for (const auto& [service, f] : figures) {
    out[service] = Json{{"requests", f.requests}, {"acknowledged", f.acknowledged},
                        {"failed", f.failed},     {"unknown", f.unknown},
                        {"retried", f.retried},   {"longest_pause_ms", (f.longest_pause_us + 999) / 1000},
                        {"p50_us", f.p50_us},     {"p95_us", f.p95_us},
                        {"p99_us", f.p99_us},     {"hosts", f.hosts}};
  }
  return out;
}

}  // namespace midstream::lab
