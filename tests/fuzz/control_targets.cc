// What comes to controller, agent and probe: messages of a link, the manifest, the journal, the probe's log, answers of
// web servers.
#include <cstring>

#include "base/http.h"
#include "control/peers.h"
#include "engine/engine.h"
#include "manifest/manifest.h"
#include "manifest/values.h"
#include "probe/config.h"
#include "probe/meter.h"
#include "probe/records.h"
#include "sys/stream.h"
#include "tests/fuzz/target.h"

namespace midstream::fuzz {

namespace {

using Seeds = std::vector<std::string>;

// A peer that sends these bytes, a few at a time, and closes.
class Bytes final : public Stream {
 public:
  explicit Bytes(std::string_view bytes) : bytes_(bytes) {}
  Result<std::size_t> read_some(std::span<char> into, Deadline, const std::stop_token&) override {
    const auto count = std::min({into.size(), bytes_.size(), std::size_t{7}});
    std::memcpy(into.data(), bytes_.data(), count);
    bytes_.remove_prefix(count);
    return count;
  }
  Result<> write_all(std::string_view bytes, Deadline, const std::stop_token&) override {
    written.append(bytes);
    return {};
  }
  void shut() override {}
  std::string written;

 private:
  std::string_view bytes_;
};

void link_message(std::string_view input) {
  Bytes stream(input);
  while (const auto message = read_message(stream, Deadline::in(Millis(60'000)), {})) {
    (void)peers_from_json(message->value("peers", Json::object()));
    (void)error_from_json(message->value("error", Json::object()));
    Bytes out("");
    must(write_message(out, *message, Deadline::in(Millis(60'000)), {}).has_value(), "what was read can be written");
  }
}

Seeds link_message_seeds() {
  Seeds seeds;
  for (const auto& message :
       {Json{{"type", "hello"}, {"id", 1}, {"move", "autumn"}},
        Json{{"type", "adopt"}, {"epoch", 2}, {"peers", {{"a", {{"address", "192.0.2.1"}, {"port", 1}, {"fingerprint", "00ff"}}}}}},
        Json{{"type", "reply"}, {"id", 1}, {"ok", false}, {"error", {{"kind", "retry"}, {"what", "x"}, {"todo", "y"}}}}}) {
    Bytes out("");
    (void)write_message(out, message, Deadline::in(Millis(60'000)), {});
    seeds.push_back(out.written);
  }
  seeds.push_back(seeds[0] + seeds[1]);
  return seeds;
}

void manifest(std::string_view input) {
  const auto parsed = parse_manifest(input, "move.yaml");
  if (parsed) (void)to_json(*parsed).dump();
}

Seeds manifest_seeds() {
  return {"move: autumn\nhosts:\n  old: { ssh: root@192.0.2.1, data: 10.0.0.1 }\n  new: { ssh: root@192.0.2.2, data: 10.0.0.2 }\n"
          "  edge: { ssh: root@192.0.2.3, data: 10.0.0.3 }\nvantage: edge\nrules:\n  downtime: 5m\n"
          "  window: { days: mon-fri, from: \"11:00\", to: \"14:00\", zone: America/Toronto }\n  observe: 2h\nservices:\n  shop:\n"
          "    probe: { http: \"http://shop.example/health\", every: 100ms }\n    files: [ { path: /srv/shop, both_ways: true, except: [\"cache/\"] } ]\n"
          "    traffic: { haproxy: edge, backend: shop, old: [a], new: [b], steps: [1, 5, 100], hold: 5s }\n"
          "addresses:\n  - { subnet: 192.0.2.0/26, from: {host: old, dev: eth0}, to: {host: new, dev: eth0} }\n",
          "a: &x [1, 2, *x]\n", "{ { a: b }: c, ? d : e }\n---\nmove: 2\n"};
}

void manifest_values(std::string_view input) {
  (void)parse_duration(input);
  (void)parse_size(input);
  (void)parse_percent(input);
  (void)parse_days(input);
  (void)parse_time(input);
  (void)parse_prefix(input);
  (void)parse_host_port(input);
  (void)parse_conninfo(input);
  if (const auto address = parse_address(input)) must(parse_address(to_string(*address)) == address, "an address is read as it is written");
  for (const auto is : {is_ssh_target, is_zone_name, is_absolute_name, is_server_name, is_http_url, is_probe_conninfo, is_absolute_path,
                        is_device_name, is_proxy_name, is_database_name, is_line})
    (void)is(input);
}

Seeds manifest_values_seeds() {
  return {"100ms", "16G", "5%", "fri-mon", "11:00", "192.0.2.0/26", "2001:db8::/64", "[::1]:25", "host='a b' dbname=x\\ y", "root@old.example",
          "db.prod.example.", "https://shop.example/health?x=1", "/srv/shop/"};
}

// Lines of a journal; those that the engine takes change its state, the others are errors.
void journal(std::string_view input) {
  Engine engine;
  while (!input.empty()) {
    const auto end = std::min(input.find('\n'), input.size());
    if (const auto record = parse_json(input.substr(0, end))) (void)engine.fold(*record);
    input.remove_prefix(std::min(end + 1, input.size()));
  }
  const auto text = to_json(engine.state().plan);
  if (!engine.state().plan.steps.empty()) must(plan_from_json(text).has_value(), "a plan is read as it is written");
  (void)engine.waiting();
}

Seeds journal_seeds() {
  Plan plan;
  plan.move = "autumn";
  plan.hosts = {"old", "new"};
  Step step;
  step.id = "a.b";
  step.phase = "copy";
  step.service = "a";
  step.host = "new";
  step.mover = "files";
  step.desired = {{"kind", "follow"}};
  plan.steps.push_back(step);
  const auto first = Engine::plan_record(1'000, plan).dump();
  return {first + "\n" + R"({"type":"epoch","at":1001,"epoch":1})" + "\n" + R"({"type":"asked","at":1002,"goal":"run","until":""})" + "\n" +
              R"({"type":"intent","at":1003,"step":"a.b","direction":"forward","attempt":1,"epoch":1})" + "\n" +
              R"({"type":"outcome","at":1004,"step":"a.b","direction":"forward","ok":true,"result":{"n":1}})" + "\n",
          first + "\n" + R"({"type":"paused","at":2,"paused":true})" + "\n" +
              R"({"type":"stopped","at":3,"step":"a.b","error":{"kind":"refused","what":"w","todo":"t"}})" + "\n"};
}

void probe_log(std::string_view input) {
  Meter meter;
  while (!input.empty()) {
    const auto end = std::min(input.find('\n'), input.size());
    const auto line = decode_line(input.substr(0, end));
    if (line) {
      must(encode_line(*line) == std::string(input.substr(0, end)) + "\n" || decode_line(encode_line(*line).substr(0, encode_line(*line).size() - 1)).has_value(),
           "a line is read as it is written");
      (void)meter.add(*line);
    }
    input.remove_prefix(std::min(end + 1, input.size()));
  }
  (void)meter.to_json().dump();
}

Seeds probe_log_seeds() {
  SessionLine session{.boot_id = "01234567-89ab-cdef-0123-456789abcdef", .boot = Nanos(1'000'000), .wall_ms = 1'700'000'000'000};
  session.targets = {{.name = "web"}, {.name = "192.0.2.10", .is_address = true}};
  RunLine run{.target = 0, .first_seq = 1, .last_seq = 1, .first_start = Nanos(2'000'000), .last_start = Nanos(2'000'000)};
  run.error = "-";
  run.host = "web-old-1";
  auto lost = run;
  lost.first_seq = lost.last_seq = 2;
  lost.first_start = lost.last_start = Nanos(102'000'000);
  lost.outcome = ProbeOutcome::timeout;
  return {encode_line(session) + encode_line(run) + encode_line(lost) + encode_line(EndLine{Nanos(200'000'000)})};
}

void probe_settings(std::string_view input) {
  const std::string text(input);
  (void)parse_http_target(text);
  (void)parse_tcp_target(text);
  if (const auto json = parse_json(input)) (void)parse_probe_config(*json);
}

Seeds probe_settings_seeds() {
  return {"http://shop.example:80/health", "mx.example:25",
          R"({"log":"/tmp/x","services":[{"name":"web","http":"http://a/","every_ms":100,"timeout_ms":1000}],"addresses":[]})"};
}

void http_answer(std::string_view input) {
  HttpAnswer whole;
  const auto at_once = whole.feed(input);
  HttpAnswer pieces;
  auto piecewise = HttpAnswer::State::reading;
  for (std::size_t i = 0; i < input.size() && piecewise == HttpAnswer::State::reading; i += 3) piecewise = pieces.feed(input.substr(i, 3));
  if (at_once == HttpAnswer::State::reading) must(piecewise == HttpAnswer::State::reading, "an answer does not depend on how it is cut");
  (void)whole.close();
  (void)pieces.close();
}

Seeds http_answer_seeds() {
  return {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Host: web-1\r\n\r\nok",
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.0 503 No\r\nConnection: close\r\n\r\nbody",
          "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"};
}

}  // namespace

std::vector<Target> control_targets() {
  return {{"link_message", link_message, link_message_seeds},
          {"manifest", manifest, manifest_seeds},
          {"manifest_values", manifest_values, manifest_values_seeds},
          {"journal", journal, journal_seeds},
          {"probe_log", probe_log, probe_log_seeds},
          {"probe_settings", probe_settings, probe_settings_seeds},
          {"http_answer", http_answer, http_answer_seeds}};
}

}  // namespace midstream::fuzz
