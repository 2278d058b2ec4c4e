// Preconditions of the traffic mover. A finding that is ok but has a todo is a warning.
#include <fmt/format.h>
#include <unistd.h>

#include "base/text.h"
#include "movers/traffic/kinds.h"
#include "movers/traffic/record.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::haproxy {

namespace {

struct Findings {
  Json list = Json::array();
  void add(std::string what, bool ok, std::string detail, std::string todo = "") {
    list.push_back(finding(std::move(what), ok, std::move(detail), std::move(todo)));
  }
  void fail(std::string what, const Error& error) { add(std::move(what), false, error.what, error.todo); }
};

void check_level(Findings& findings, const Socket& socket, const Target& target) {
  const auto what = fmt::format("HAProxy's socket {} has level admin", target.socket.string());
  const auto level = socket.ask("show cli level");
  if (!level) return findings.fail(what, level.error());
  findings.add(what, trim(*level) == "admin", fmt::format("level {}", printable(trim(*level))),
               "give the stats socket 'level admin' in HAProxy's configuration");
}

void check_server(Findings& findings, const Target& target, const Server& server, const StatRow& row, bool is_new) {
  const auto name = fmt::format("{}/{}", target.backend, server.name);
  const bool checked = !stat_text(row, "check_status").empty();
  findings.add(fmt::format("server {} has a health check", name), checked,
               checked ? stat_text(row, "check_status") : "no check",
               "add 'check' to its server line: without one traffic goes to a dead server");
  const auto up = fmt::format("server {} is up", name);
  if (is_new) {  // may still be on its way; apply raises no weight before it is up
    findings.add(up, true,
                 server.takes_traffic() ? "UP" : fmt::format("{}: it gets no traffic before it is up", server.state()));
  } else {
    findings.add(up, server.takes_traffic(), server.state(), "bring it up, or leave it out of the move");
  }
  if (stat_number(row, "bck") > 0) {
    findings.add(fmt::format("server {} takes part in load balancing", name), false, "it is a backup server",
                 "remove 'backup'");
  }
}

void check_settings(Findings& findings, const Target& target, const std::string& file) {
  const auto settings = balance_settings(file, target.backend);
  if (!settings) return findings.fail("the configuration file describes the backend", settings.error());
  findings.add(
      fmt::format("backend {} balances so that weights can change", target.backend), is_dynamic(*settings),
      fmt::format("balance {}{}", settings->balance, settings->consistent_hash ? ", hash-type consistent" : ""),
      "use roundrobin, leastconn or random, or add 'hash-type consistent'");
  const bool sticky = !settings->sticky.empty();
  findings.add(fmt::format("backend {} does not keep clients on a server", target.backend), true,
               sticky ? fmt::format("warning: {}", join(settings->sticky, ", ")) : "no stickiness",
               sticky ? "clients that have a server stay there: the split holds for new clients only, a "
                        "drain takes longer"
                      : "");
}

void check_config(Findings& findings, const Context& context, const Target& target,
                  const std::vector<Server>& servers) {
  const auto what = fmt::format("configuration {} can be kept in agreement", target.config.string());
  std::error_code failed;
  const auto path = std::filesystem::canonical(target.config, failed);
  if (failed) return findings.add(what, false, failed.message(), "name the file that HAProxy reads");
  const auto file = read_file(path);
  if (!file) return findings.fail(what, file.error());
  const bool writable = ::access(path.c_str(), W_OK) == 0 && ::access(path.parent_path().c_str(), W_OK) == 0;
  findings.add(what, writable, writable ? "writable" : "not writable",
               "let the agent write the file and its directory");

  const auto valid = run_child({"haproxy", "-c", "-f", path.string()}, "", context.deadline, context.stop);
  if (!valid) {
    findings.fail("haproxy -c accepts the configuration", valid.error());
  } else {
    findings.add("haproxy -c accepts the configuration", valid->code == 0,
                 valid->code == 0 ? "valid" : printable(trim(valid->err).substr(0, 300)),
                 "correct the file, or name all of it");
  }
  const auto agree =
      fmt::format("configuration and running HAProxy agree on the weights of backend {}", target.backend);
  const auto written = written_weights(*file, target.backend, target.servers());
  if (!written) return findings.fail(agree, written.error());
  const auto settings = balance_settings(*file, target.backend);
  const auto fallback = settings && !settings->default_weight.empty() ? settings->default_weight : "1";
  std::vector<std::string> differ;
  for (const auto& [name, text] : *written) {
    const auto server = find_server(servers, target.backend, name);
    if (server && std::stoi(text.value_or(fallback)) != server->weight) {
      differ.push_back(fmt::format("{}: file {}, running {}", name, text.value_or(fallback), server->weight));
    }
  }
  findings.add(agree, differ.empty(), differ.empty() ? "they do" : join(differ, "; "),
               "reload HAProxy, or correct the file");
  check_settings(findings, target, *file);
}

}  // namespace

Result<Json> check_backend(const Context& context, const Json& desired, bool weights) {
  const auto target = TRY(read_target(desired));
  const Socket socket(target.socket, context.deadline, context.stop);
  Findings findings;
  const auto reach = fmt::format("HAProxy answers on {}", target.socket.string());
  const auto info = socket.info();
  if (!info) {
    findings.fail(reach, info.error());
    return findings.list;
  }
  findings.add(reach, true, fmt::format("version {}", info->version));
  check_level(findings, socket, target);
  const auto servers = socket.servers(target.backend);
  const auto rows = socket.stat(target.backend);
  if (!servers || !rows) {
    findings.fail(fmt::format("backend {} exists", target.backend), !servers ? servers.error() : rows.error());
    return findings.list;
  }
  for (const auto& name : target.servers()) {
    const auto server = find_server(*servers, target.backend, name);
    if (!server) {
      findings.fail(fmt::format("server {}/{} exists", target.backend, name), server.error());
      continue;
    }
    const auto row = rows->find(name);
    const bool is_new =
        std::find(target.new_servers.begin(), target.new_servers.end(), name) != target.new_servers.end();
    check_server(findings, target, *server, row == rows->end() ? StatRow{} : row->second, is_new);
  }
  if (weights) check_config(findings, context, target, *servers);
  return findings.list;
}

}  // namespace midstream::haproxy
