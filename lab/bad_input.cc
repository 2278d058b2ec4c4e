#include "lab/bad_input.h"

#include <fmt/format.h>

#include <vector>

#include "base/text.h"

namespace midstream::lab {

namespace {

constexpr int kBadManifest = 2;
constexpr int kNotReady = 3;

// What midstream could have changed on a host: services, its own directories, configuration, addresses, database.
constexpr const char* kPicture =
    "ls -R /etc/service /var/lib/midstream /run/midstream /run/midstream-check* 2>/dev/null | sort; cat /etc/haproxy/haproxy.cfg "
    "/etc/network/interfaces /etc/network/interfaces.d/* /etc/postgresql/15/main/*.conf 2>/dev/null; ip -o addr show | sed 's/valid_lft.*//'; "
    "sysctl net.ipv4.conf.all.arp_ignore; setpriv --reuid=postgres --regid=postgres --init-groups psql -XAtqc \"select rolname, rolsuper from pg_roles order by 1; "
    "select datname, datconnlimit, datallowconn from pg_database order by 1; select slot_name from pg_replication_slots; select pubname from pg_publication; "
    "select nspname from pg_namespace where nspname like 'mid%'\" 2>/dev/null; true";

class BadInput {
 public:
  BadInput(Lab& lab, const std::function<void(std::string_view)>& tell) : lab_(lab), s_(lab.scenario()), tell_(tell) {}

  Result<> all() {
    manifest_ = TRY(lab_.must(s_.ops, {"cat", "/root/move.yaml"}));
    CHECK_OK(manifests());
    const auto before = TRY(picture());
    CHECK_OK(unreachable());
    CHECK_OK(wrong_key());
    CHECK_OK(no_socket());
    CHECK_OK(full_disk());
    CHECK_OK(same(before, "the cases above"));
    CHECK_OK(forgotten());
    CHECK_OK(too_small());
    CHECK_OK(foreign_table());
    CHECK_OK(same(before, "a foreign table"));
    return wal_level();
  }

 private:
  Result<std::string> picture() {
    std::string out;
    for (const auto& host : {s_.edge, s_.old_host, s_.new_host, s_.out}) out += TRY(lab_.must(host, {"sh", "-c", kPicture}));
    return out;
  }
  Result<> same(const std::string& before, const std::string& after_what) {
    if (TRY(picture()) == before) return {};
    return refused(fmt::format("something was changed on a host by {}", after_what));
  }

  // `midstream run --yes` on `manifest` ends with `code` and says `words`.
  Result<> expect(const std::string& name, const std::string& manifest, int code, const std::string& words) {
    TRY(lab_.must(s_.ops, {"sh", "-c", "cat >/root/bad.yaml"}, manifest));
    const auto exit = TRY(lab_.exec(s_.ops, {"/opt/midstream/bin/midstream", "run", "--yes", "/root/bad.yaml"}, "", Deadline::in(Millis(120'000))));
    const auto said = exit.out + exit.err;
    if (exit.code != code) return refused(fmt::format("{}: exit code {} instead of {}: {}", name, exit.code, code, said));
    if (said.find(words) == std::string::npos) return refused(fmt::format("{}: nothing says '{}': {}", name, words, said));
    // The journal of a move that never began holds nothing.
    tell_(fmt::format("{}: exit code {}, says '{}'", name, code, words));
    return {};
  }
  std::string replaced(const std::string& what, const std::string& with) const {
    auto text = manifest_;
    const auto at = text.find(what);
    if (at != std::string::npos) text.replace(at, what.size(), with);
    return text;
  }

  Result<> manifests() {
    const std::vector<std::tuple<std::string, std::string, std::string>> cases{
        {"not YAML", "move: [", "bad.yaml:"},
        {"empty", "", "bad.yaml"},
        {"a list", "- a\n- b\n", "bad.yaml:1:1"},
        {"misspelt field", replaced("services:", "sevrices:"), "did you mean 'services'"},
        {"unknown host", replaced("vantage: " + s_.out, "vantage: nowhere"), "nowhere"},
        {"bad duration", replaced("downtime: 5m", "downtime: five minutes"), "downtime"},
        {"bad address", replaced("192.0.2.0/26", "192.0.2.0/99"), "bad.yaml:"},
        {"steps not to 100", replaced("[5, 25, 50, 100]", "[5, 25, 50]"), "100"},
        {"a cycle of needs", replaced("needs: [" + s_.db_service + "]", "needs: [" + s_.web_service + "]"), "needs"},
        {"a name without its dot", replaced("name: " + s_.db_name, "name: " + s_.db_name.substr(0, s_.db_name.size() - 1)), "bad.yaml:"},
        {"a password in the manifest", replaced("port=5432 dbname", "password=x port=5432 dbname"), "password"},
    };
    for (const auto& [name, manifest, words] : cases) {
      if (manifest == manifest_) return refused(fmt::format("{}: the manifest does not hold what the case replaces", name));
      CHECK_OK(expect(name, manifest, kBadManifest, words));
    }
    return {};
  }

  Result<> unreachable() {
    CHECK_OK(lab_.set_link(s_.new_host, "mgmt0", false));
    const auto tried = expect("an unreachable host", manifest_, kNotReady, fmt::format("cannot reach host {} by ssh", s_.new_host));
    CHECK_OK(lab_.set_link(s_.new_host, "mgmt0", true));
    CHECK_OK(lab_.await_host(s_.new_host, Deadline::in(Millis(20'000))));
    return tried;
  }

  Result<> wrong_key() {
    TRY(lab_.must(s_.edge, {"sh", "-c",
                            "cp -p /etc/midstream/tsig.key /root/tsig.good && sed -i 's/secret \".*\"/secret \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"/' "
                            "/etc/midstream/tsig.key"}));
    const auto tried = expect("a wrong TSIG key", manifest_, kNotReady, "TSIG");
    TRY(lab_.must(s_.edge, {"mv", "/root/tsig.good", "/etc/midstream/tsig.key"}));
    return tried;
  }

  Result<> no_socket() {
    return expect("no HAProxy socket", replaced("backend: " + s_.web_backend, "socket: /run/haproxy/none.sock, backend: " + s_.web_backend), kNotReady,
                  "/run/haproxy/none.sock");
  }

  Result<> full_disk() {
    CHECK_OK(lab_.fill(s_.new_host, 1u << 20));
    const auto tried = expect("a full disk on the new host", manifest_, kNotReady, fmt::format("{} has room", s_.new_host));
    CHECK_OK(lab_.unfill(s_.new_host));
    return tried;
  }

  // Something listens on old that no mover knows: named with the line that accepts it, which is all that it takes.
  Result<> forgotten() {
    const auto pid = std::string(trim(TRY(lab_.must(
        s_.old_host, {"sh", "-c",
                      "python3 -c 'import socket, time; s = socket.socket(); s.bind((\"127.0.0.1\", 6379)); s.listen(); time.sleep(1000)' "
                      ">/dev/null 2>&1 </dev/null & echo $!; for i in $(seq 100); do grep -q 0100007F:18EB /proc/net/tcp && break; sleep 0.05; done"}))));
    auto tried = expect("a forgotten listener", manifest_, kNotReady, "accept: [ \"listen 127.0.0.1:6379\" ]");
    if (tried) tried = passes("a forgotten listener that is accepted", replaced("accept:\n", "accept:\n  - listen 127.0.0.1:6379\n"));
    TRY(lab_.must(s_.old_host, {"kill", pid}));
    return tried;
  }

  Result<> too_small() {
    CHECK_OK(expect("a host that does not grow enough", replaced("grow: 1x", "grow: 50x"), kNotReady, "memory at least 50x that of old"));
    return expect("a host without the inodes", replaced("grow: 1x", "at_least: { inodes: 900000000 }"), kNotReady, "free inodes at least 900000000");
  }

  // `midstream check` on `manifest` finds nothing wrong.
  Result<> passes(const std::string& name, const std::string& manifest) {
    if (manifest == manifest_) return refused(fmt::format("{}: the manifest does not hold what the case replaces", name));
    TRY(lab_.must(s_.ops, {"sh", "-c", "cat >/root/bad.yaml"}, manifest));
    const auto exit = TRY(lab_.exec(s_.ops, {"/opt/midstream/bin/midstream", "check", "/root/bad.yaml"}, "", Deadline::in(Millis(120'000))));
    if (exit.code != 0) return refused(fmt::format("{}: exit code {}: {}", name, exit.code, exit.out + exit.err));
    tell_(fmt::format("{}: passes", name));
    return {};
  }

  Result<> sql(const std::string& host, const std::string& database, const std::string& text) {
    TRY(lab_.must(host, {"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "psql", "-Xqc", text, database}));
    return {};
  }

  Result<> foreign_table() {
    CHECK_OK(sql(s_.old_host, s_.database, "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere; "
                                           "CREATE FOREIGN TABLE kept_elsewhere (n int) SERVER nowhere"));
    const auto tried = expect("a foreign table", manifest_, kNotReady, "kept_elsewhere");
    CHECK_OK(sql(s_.old_host, s_.database, "DROP FOREIGN DATA WRAPPER nowhere CASCADE"));
    return tried;
  }

  Result<> wal_level() {
    CHECK_OK(sql(s_.old_host, "postgres", "ALTER SYSTEM SET wal_level = replica"));
    TRY(lab_.kill(s_.old_host, "postgres", 2));  // SIGINT: fast shutdown; the supervisor starts it again
    const auto deadline = Deadline::in(Millis(30'000));
    while (!sql(s_.old_host, "postgres", "DO $$ BEGIN IF current_setting('wal_level') <> 'replica' THEN RAISE 'not yet'; END IF; END $$")) {
      if (deadline.expired()) return refused("PostgreSQL on the old host did not come back with wal_level=replica");
      pause_for(Millis(100), {});
    }
    return expect("wal_level=replica", manifest_, kNotReady, "wal_level");
  }

  Lab& lab_;
  const Scenario& s_;
  const std::function<void(std::string_view)>& tell_;
  std::string manifest_;
};

}  // namespace

Result<> try_bad_input(Lab& lab, const std::function<void(std::string_view)>& tell) { return BadInput(lab, tell).all(); }

}  // namespace midstream::lab
