// Readiness: every daemon is asked, from where its users are, until it answers.
#include <fmt/format.h>

#include <future>

#include "base/text.h"
#include "lab/lab.h"

namespace midstream::lab {

namespace {

struct Check {
  std::string what;
  std::string host;
  std::string script;  // for sh; exit 0 once it is so
};

std::string bare(const std::string& name) { return name.substr(0, name.size() - 1); }

// The answer that both sides of a name server pair must agree on.
std::string dig_equal(const Scenario& s, const char* ns1, const char* ns2) {
  return fmt::format("a=$(dig +short +tries=1 +time=1 @{1} SOA {0}) && b=$(dig +short +tries=1 +time=1 @{2} SOA {0}) && "
                     "[ -n \"$a\" ] && [ \"$a\" = \"$b\" ]",
                     s.zone, ns1, ns2);
}

std::vector<Check> checks(const Scenario& s) {
  std::vector<Check> all;
  for (const auto& host : s.hosts()) {
    all.push_back({fmt::format("sshd on {}", host.name), s.ops, fmt::format("ssh {} true </dev/null", host.name)});
  }
  all.push_back({"name servers, from inside", s.edge, dig_equal(s, "10.77.0.21", "10.77.0.22")});
  all.push_back({"name servers, from outside", s.out, dig_equal(s, "203.0.113.21", "203.0.113.22")});
  all.push_back({"name servers, over IPv6", s.out, dig_equal(s, "2001:db8:113::21", "2001:db8:113::22")});
  all.push_back({"PostgreSQL on new", s.new_host,
                 "setpriv --reuid=postgres --regid=postgres --init-groups psql -Xqc 'select 1' >/dev/null"});
  all.push_back({fmt::format("{} by its name", s.db_service), s.out,
                 fmt::format("PGPASSFILE=/etc/midstream/probe.pgpass PGCONNECT_TIMEOUT=2 psql -XAtqc 'select 1' "
                             "'host={} dbname={} user={}' >/dev/null",
                             bare(s.db_name), s.database, s.probe_role)});
  all.push_back({fmt::format("{} by its name", s.web_service), s.out,
                 fmt::format("[ ! -x /opt/midstream/bin/lab-shop ] || timeout 2 bash -c 'exec 3<>/dev/tcp/{0}/80; "
                             "printf \"GET /health HTTP/1.0\\r\\nHost: {0}\\r\\n\\r\\n\" >&3; head -1 <&3 | grep -q \" 200\"'",
                             bare(s.web_name))});
  const auto greeted = [](const std::string& host, int port, const char* word) {
    return fmt::format("timeout 2 bash -c 'exec 3<>/dev/tcp/{}/{}; head -1 <&3 | grep -q \"^{}\"'", host, port, word);
  };
  all.push_back({"SMTP by its name", s.out, greeted(bare(s.mx_name), 25, "220")});
  all.push_back({"IMAP by its name", s.out, greeted(bare(s.imap_name), 143, "[*] OK")});
  all.push_back({"mail on new", s.new_host, greeted("127.0.0.1", 25, "220") + " && " + greeted("127.0.0.1", 143, "[*] OK")});
  for (const char* address : {"192.0.2.10", "192.0.2.33", "198.51.100.10", "2001:db8:26::10", "2001:db8:28::10"}) {
    all.push_back({fmt::format("the relay on {}", address), s.out,
                   fmt::format("timeout 1 bash -c 'exec 3<>/dev/tcp/{}/80'", address)});
  }
  return all;
}

// One shell in the host that tries again until it works; `seconds` bound it there too.
std::vector<std::string> patiently(const std::string& script) {
  return {"/bin/sh", "-c", fmt::format("until {{ {}; }} 2>/run/not-ready.$$; do sleep 0.05; done; rm -f /run/not-ready.$$", script)};
}

}  // namespace

Result<> Lab::await_host(const std::string& host, Deadline deadline, const std::stop_token& stop) const {
  const auto exit = TRY(exec(scenario_.ops, patiently(fmt::format("ssh {} true </dev/null", host)), "", deadline, stop));
  if (exit.code != 0) return retry(fmt::format("host {} does not answer: {}", host, trim(exit.err)));
  return {};
}

Result<> Lab::await_ready(Deadline deadline, const std::stop_token& stop) const {
  // The passwords of this run, as soon as the server is up; what else there is waits for them.
  const std::string roles =
      "[ ! -e /root/roles.sql ] || { setpriv --reuid=postgres --regid=postgres --init-groups psql -Xqv ON_ERROR_STOP=1 "
      "</root/roles.sql && rm /root/roles.sql; }";
  auto all = checks(scenario_);
  all.push_back({"PostgreSQL on old", scenario_.old_host, roles});
  std::vector<std::pair<std::string, std::future<Result<Exit>>>> running;
  for (const auto& check : all) {
    running.emplace_back(check.what, std::async(std::launch::async, [this, check, deadline, stop] {
                           return exec(check.host, patiently(check.script), "", deadline, stop);
                         }));
  }
  std::vector<std::string> silent;
  for (auto& [what, future] : running) {
    const auto exit = future.get();
    if (!exit || exit->code != 0) silent.push_back(what);
  }
  if (silent.empty()) return {};
  if (stop.stop_requested()) return failure(ErrorKind::cancelled, "stopped while the lab was coming up");
  return retry(fmt::format("the lab did not get ready in time; no answer from: {}", join(silent, ", ")),
               fmt::format("see the hosts' /var/log and {}/hosts/*.console", directory_.string()));
}

}  // namespace midstream::lab
