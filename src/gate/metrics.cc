#include "gate/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

namespace midstream::gate {

void Switches::known(const Key& key) {
  const std::lock_guard lock(mutex_);
  counts_.of[key];
}

void Switches::begun(const Key& key, std::chrono::nanoseconds now) {
  const std::lock_guard lock(mutex_);
  end(key, Failed::again, now);
  ++counts_.of[key].tried;
  holding_[key] = now;
  counts_.holding = holding_.size();
}

void Switches::done(const Key& key, std::chrono::nanoseconds now) {
  const std::lock_guard lock(mutex_);
  const auto it = holding_.find(key);
  if (it == holding_.end()) return;
  ++counts_.of[key].done;
  counts_.done.add(now - it->second);
  holding_.erase(it);
  counts_.holding = holding_.size();
}

void Switches::failed(const Key& key, Failed why, std::chrono::nanoseconds now) {
  const std::lock_guard lock(mutex_);
  end(key, why, now);
}

void Switches::end(const Key& key, Failed why, std::chrono::nanoseconds now) {
  const auto it = holding_.find(key);
  if (it == holding_.end()) return;
  ++counts_.of[key].failed[static_cast<std::size_t>(why)];
  counts_.failed.add(now - it->second);
  holding_.erase(it);
  counts_.holding = holding_.size();
}

Switches::Counts Switches::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

namespace {

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') out += "\\n";
    else out += c;
  }
  return out;
}

std::string label_text(Family::Labels labels) {
  std::string out;
  for (const auto& [name, value] : labels) out += fmt::format("{}{}=\"{}\"", out.empty() ? "" : ",", name, escaped(value));
  return out.empty() ? "" : "{" + out + "}";
}

double as_number(std::uint64_t value) { return static_cast<double>(value); }
double seconds(std::chrono::nanoseconds span) { return std::chrono::duration<double>(span).count(); }

// Counts are whole, and are written so.
std::string number(double value) {
  const auto whole = static_cast<std::int64_t>(value);
  return static_cast<double>(whole) == value ? fmt::format("{}", whole) : fmt::format("{}", value);
}

class Builder {
 public:
  void one(std::string_view name, std::string_view type, std::string_view help, double value) { family(name, type, help).samples.push_back({{}, value}); }
  // One sample a word.
  void each(std::string_view name, std::string_view type, std::string_view help, std::string_view label, std::span<const std::string_view> words,
            std::span<const std::uint64_t> values) {
    auto& samples = family(name, type, help).samples;
    for (std::size_t i = 0; i < words.size(); ++i) {
      auto word = std::string(words[i]);
      std::ranges::replace(word, ' ', '_');
      samples.push_back({{{std::string(label), word}}, as_number(values[i])});
    }
  }
  Family& family(std::string_view name, std::string_view type, std::string_view help) {
    return families.emplace_back(Family{"midstream_gate_" + std::string(name), type, help, {}, {}});
  }
  std::vector<Family> families;
};

void add_connections(Builder& out, const Metrics& metrics) {
  const auto& tally = metrics.totals.tally;
  out.one("start_time_seconds", "gauge", "When the gate began, since 1970.", metrics.start_seconds);
  out.each("sessions", "gauge", "Connections of clients, by whether they could move now.", "state", kMovables, metrics.totals.movable);
  out.each("sessions_doing", "gauge", "The same connections, by what they do.", "doing", kDoings, metrics.totals.doing);
  out.each("sessions_prepared", "gauge", "The same connections, by that to the other server, where they are to go.", "connection", kOthers, metrics.totals.other);
  out.one("connections_accepted_total", "counter", "Connections of clients that were accepted.", as_number(tally.accepted));
  out.each("connections_ended_total", "counter", "Those of them that have ended, and how.", "reason", kEndings, tally.ended);
  out.one("logins_total", "counter", "Sessions that began: logged in at the gate and at the server.", as_number(tally.logins));
  out.each("logins_refused_total", "counter", "Clients that were not let in, and why.", "reason", kRefusals, tally.refused);
  auto& cancels = out.family("cancels_total", "counter", "Cancel requests: passed to the server, or dropped, for there was nothing to cancel.");
  cancels.samples = {{{{"outcome", "passed"}}, as_number(tally.cancels_passed)}, {{{"outcome", "dropped"}}, as_number(tally.cancels_dropped)}};
  auto& opened = out.family("server_connections_opened_total", "counter", "Connections to servers that were begun, and for what.");
  for (std::size_t server = 0; server < metrics.servers.size(); ++server)
    for (std::size_t i = 0; i < kPurposes.size(); ++i)
      opened.samples.push_back({{{"server", metrics.servers[server]}, {"purpose", std::string(kPurposes[i])}}, as_number(tally.opened[server][i])});
}

void add_traffic(Builder& out, const Tally& tally) {
  const auto& counts = tally.counts;
  out.family("forwarded_bytes_total", "counter", "Bytes passed on in sessions, after their log-in.").samples = {
      {{{"from", "client"}}, as_number(counts.client_bytes)}, {{{"from", "server"}}, as_number(counts.server_bytes)}};
  out.one("requests_total", "counter", "Requests that the server has answered (ReadyForQuery).", as_number(counts.requests));
  out.one("transactions_total", "counter", "Those of them after which no transaction was open.", as_number(counts.transactions));
  out.one("statements_prepared_total", "counter", "Statements with a name that were prepared, by Parse or by PREPARE.", as_number(counts.prepared));
  out.one("errors_total", "counter", "Errors that servers told clients.", as_number(counts.errors));
  out.one("notifications_total", "counter", "Notifications passed on.", as_number(counts.notifications));
}

void add_switches(Builder& out, const Metrics& metrics) {
  const auto& all = metrics.switches.of;
  const auto labels = [](const Switches::Key& key) { return Family::Labels{{"database", key.database}, {"to", key.to}}; };
  auto& tried = out.family("switches_tried_total", "counter", "Switches for which a database was held.").samples;
  for (const auto& [key, one] : all) tried.push_back({labels(key), as_number(one.tried)});
  auto& done = out.family("switches_done_total", "counter", "Those of them after which it was on the other server.").samples;
  for (const auto& [key, one] : all) done.push_back({labels(key), as_number(one.done)});
  auto& failed = out.family("switches_failed_total", "counter", "Those of them after which it was where it had been, and why.").samples;
  for (const auto& [key, one] : all) {
    for (std::size_t i = 0; i < kFailed.size(); ++i) {
      failed.push_back({labels(key), as_number(one.failed[i])});
      failed.back().labels.emplace_back("reason", kFailed[i]);
    }
  }
  out.one("switches_holding", "gauge", "Databases that are held for a switch now.", as_number(metrics.switches.holding));
  out.one("sessions_moved_total", "counter", "Sessions that went over to another server.", as_number(metrics.totals.tally.moved));
  out.family("hold_seconds", "histogram", "How long a database was held for a switch.").distributions = {
      {{{"outcome", "done"}}, metrics.switches.done}, {{{"outcome", "failed"}}, metrics.switches.failed}};
  out.family("session_held_seconds", "histogram", "How long a session was held, each time.").distributions = {{{}, metrics.totals.tally.held}};
  out.family("client_wait_seconds", "histogram", "How long a client waited for the end of a hold or for an owner, each time.").distributions = {
      {{}, metrics.totals.tally.waited}};
}

void write(std::string& out, const std::string& name, const Family::Distribution& one) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i <= Spans::kBounds.size(); ++i) {
    sum += one.spans.counts[i];
    auto labels = one.labels;
    labels.emplace_back("le", i < Spans::kBounds.size() ? number(Spans::kBounds[i]) : "+Inf");
    out += fmt::format("{}_bucket{} {}\n", name, label_text(labels), sum);
  }
  out += fmt::format("{0}_sum{1} {2}\n{0}_count{1} {3}\n", name, label_text(one.labels), number(seconds(one.spans.sum)), sum);
}

}  // namespace

std::vector<Family> families(const Metrics& metrics) {
  Builder out;
  add_connections(out, metrics);
  add_traffic(out, metrics.totals.tally);
  add_switches(out, metrics);
  return std::move(out.families);
}

std::string prometheus_text(const std::vector<Family>& families) {
  std::string out;
  for (const auto& family : families) {
    if (family.samples.empty() && family.distributions.empty()) continue;
    out += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", family.name, family.help, family.type);
    for (const auto& one : family.samples) out += fmt::format("{}{} {}\n", family.name, label_text(one.labels), number(one.value));
    for (const auto& one : family.distributions) write(out, family.name, one);
  }
  return out;
}

Json to_json(const std::vector<Family>& families) {
  Json out = Json::array();
  for (const auto& family : families) {
    Json samples = Json::array();
    const auto with = [&](const Family::Labels& labels) -> Json& {
      samples.push_back({{"labels", Json::object()}});
      for (const auto& [name, value] : labels) samples.back()["labels"][name] = value;
      return samples.back();
    };
    for (const auto& one : family.samples) with(one.labels)["value"] = one.value;
    for (const auto& one : family.distributions) {
      auto& sample = with(one.labels);
      sample["count"] = one.spans.count();
      sample["sum"] = seconds(one.spans.sum);
      sample["buckets"] = Json::array();  // each alone, not with those before it
      for (std::size_t i = 0; i < one.spans.counts.size(); ++i)
        sample["buckets"].push_back({{"le", i < Spans::kBounds.size() ? Json(Spans::kBounds[i]) : Json("+Inf")}, {"count", one.spans.counts[i]}});
    }
    out.push_back({{"name", family.name}, {"type", family.type}, {"help", family.help}, {"samples", samples}});
  }
  return out;
}

}  // namespace midstream::gate
