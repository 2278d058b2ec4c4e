#include "lab/remains.h"

#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "base/text.h"

namespace midstream::lab {

namespace {

constexpr std::string_view kFiles = R"sh(
find /etc /var/lib /var/cache /root /home /opt /srv -xdev \( -path /var/lib/postgresql/15/main -o -path "$1" -o -path /opt/midstream/bin \
  -o -path /etc/alternatives -o -path /var/lib/dovecot -o -path /var/lib/postfix -o -path /var/cache/bind -o -path /var/lib/bind -o -path /root/.local \) -prune -o \
  \( -type f -printf 'f %p %m %U:%G\n' -o -printf 'file %p %y %m %U:%G %l\n' \) 2>/dev/null >/tmp/.look
grep -v '^f ' /tmp/.look
grep '^f ' /tmp/.look | cut -d' ' -f2 | xargs -r sha256sum 2>/dev/null | awk '{ print $2, substr($1, 1, 16) }' | sort >/tmp/.sums
grep '^f ' /tmp/.look | cut -d' ' -f2- | sort | join - /tmp/.sums | sed 's/^/file /'
rm -f /tmp/.look /tmp/.sums
for file in /etc/haproxy/haproxy.cfg /etc/network/interfaces /etc/network/interfaces.d/* /etc/postgresql/15/main/pg_hba.conf /etc/postgresql/15/main/pg_ident.conf; do
  [ -f "$file" ] && sed "s|^|line $file: |" "$file"
done
find /run /tmp -path /run/service -prune -o -name '*midstream*' -printf 'file %p\n' 2>/dev/null
ls -d /var/lib/postgresql/15/.midstream* 2>/dev/null | sed 's/^/file /'
ls /etc/service | while read -r name; do [ -e "/etc/service/$name/down" ] && echo "service $name down" || echo "service $name up"; done
cat /proc/[0-9]*/comm 2>/dev/null | grep midstream | sort -u | sed 's/^/process /'
awk '{ print "mount", $1, $2, $3, $4 }' /proc/mounts | sed 's|loop[0-9]*|loop|'
[ -d "$1" ] && lsattr -d "$1" 2>/dev/null | sed 's/^/sealed /'
find /var/lib/postgresql -maxdepth 3 -name '*midstream*' -printf 'file %p\n' 2>/dev/null
:)sh";

constexpr std::string_view kNetwork = R"sh(
ip -o addr show | awk '{ line = "address " $2; for (i = 3; i <= NF && $i !~ /valid_lft|\\/; i++) line = line " " $i; print line }' | sed 's/@if[0-9]*//'
ip route show table all | grep -v '^local\|^broadcast' | sed 's/^/route /; s/ *$//'
ip -6 route show table all | grep -v '^local\|^anycast\|^multicast' | sed 's/^/route /; s/ expires [0-9]*sec//; s/ *$//'
ip rule | sed 's/^/rule /'; ip -6 rule | sed 's/^/rule -6 /'
sysctl -a 2>/dev/null | grep -E '^net\.ipv[46]\.(conf\.[a-z0-9]+\.(arp_|promote_|proxy_|forwarding|accept_|rp_filter|dad_|use_oif|ndisc_|disable_ipv6)|ip_forward|ip_nonlocal)' | sed 's/^/sysctl /'
nft list ruleset 2>/dev/null | sed 's/^/nft /'
:)sh";

// $1: the databases' client, as postgres. A closed database is opened for the look.
constexpr std::string_view kCluster = R"sh(
as='setpriv --reuid=postgres --regid=postgres --init-groups'; cd /
q() { in=$1; shift; $as psql -XAtq -F ' ' -d "$in" -c "$@"; }
q postgres "select 'role', rolname, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit, md5(coalesce(rolpassword, '')) from pg_authid where rolname !~ '^pg_'"
q postgres "select 'role', r.rolname, 'has', m.rolname from pg_auth_members a join pg_roles r on r.oid = roleid join pg_roles m on m.oid = member where r.rolname !~ '^pg_'"
q postgres "select 'database', datname, pg_get_userbyid(datdba), datallowconn, datconnlimit, datacl from pg_database"
q postgres "select 'slot', slot_name, slot_type, database from pg_replication_slots"
q postgres "select 'subscription', subname, subenabled, subconninfo from pg_subscription"
q postgres "select 'origin', roname from pg_replication_origin"
q postgres "select 'setting', name, setting from pg_settings where source not in ('default', 'client', 'session')"
q postgres "select 'hba', type, database, user_name, address, auth_method, error from pg_hba_file_rules"
q postgres "select 'setting', coalesce(datname, '-'), coalesce(rolname, '-'), setconfig from pg_db_role_setting s left join pg_database d on d.oid = setdatabase left join pg_roles r on r.oid = setrole"
for db in $(q postgres "select datname from pg_database where not datistemplate"); do
  closed=$(q postgres "select not datallowconn from pg_database where datname = '$db'")
  [ "$closed" = t ] && q postgres "update pg_database set datallowconn = true where datname = '$db'"
  q "$db" "select 'catalog $db schema', nspname, nspacl from pg_namespace where nspname !~ '^pg_(toast|temp)'"
  q "$db" "select 'catalog $db relation', n.nspname || '.' || relname, relkind, relreplident, relrowsecurity, relacl from pg_class c join pg_namespace n on n.oid = relnamespace where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'"
  q "$db" "select 'catalog $db function', n.nspname || '.' || proname from pg_proc p join pg_namespace n on n.oid = pronamespace where n.nspname not in ('pg_catalog', 'information_schema')"
  q "$db" "select 'catalog $db trigger', tgrelid::regclass, tgname, tgenabled from pg_trigger where not tgisinternal"
  q "$db" "select 'catalog $db event trigger', evtname, evtenabled from pg_event_trigger"
  q "$db" "select 'catalog $db publication', pubname from pg_publication"
  q "$db" "select 'catalog $db extension', extname from pg_extension"
  [ "$closed" = t ] && q postgres "update pg_database set datallowconn = false where datname = '$db'"
done
:)sh";

constexpr std::string_view kProxy = R"sh(
perl -MIO::Socket::UNIX -e '
  my $s = IO::Socket::UNIX->new(Peer => "/run/haproxy/admin.sock") or die "no socket";
  print $s "show servers state\n";
  while (<$s>) { my @f = split; next if @f < 8 || /^#/; print "server $f[1]/$f[3] state $f[5] admin $f[6] weight $f[7]\n"; }'
:)sh";

Result<> add(const Lab& lab, const std::string& host, std::string_view script, const std::string& argument, Remains& to) {
  const auto text = TRY(lab.must(host, {"sh", "-c", std::string(script), "look", argument}, "", Millis(180'000)));
  for (const auto& line : split(text, '\n')) {
    if (!line.empty()) to[host].insert(line);
  }
  return {};
}

// The zone as its primary has it, but for the serial.
Result<> add_zone(const Lab& lab, Remains& to) {
  const auto& s = lab.scenario();
  const auto text = TRY(lab.must(s.ns2, {"dig", "+noall", "+answer", "+time=2", "@" + std::string(kNs1Mgmt), s.zone, "AXFR"}));
  for (const auto& line : split(text, '\n')) {
    std::string words;
    for (const auto& word : split(line, '\t')) {
      if (!word.empty()) words += " " + word;
    }
    if (line.find("SOA") == std::string::npos && !words.empty()) to[s.ns1].insert("record" + words);
  }
  if (!to.contains(s.ns1)) return refused("the zone cannot be read: " + text);
  return {};
}

}  // namespace

Result<Remains> look_at_hosts(const Lab& lab) {
  const auto& s = lab.scenario();
  Remains remains;
  for (const auto& host : s.hosts()) {
    CHECK_OK(add(lab, host.name, kFiles, s.tree, remains));
    CHECK_OK(add(lab, host.name, kNetwork, "", remains));
  }
  for (const auto& host : {s.old_host, s.new_host}) CHECK_OK(add(lab, host, kCluster, "", remains));
  CHECK_OK(add(lab, s.edge, kProxy, "", remains));
  CHECK_OK(add_zone(lab, remains));
  return remains;
}

std::vector<std::string> differences(const Remains& before, const Remains& after) {
  std::vector<std::string> lines;
  for (const auto& [host, was] : before) {
    const auto now = after.contains(host) ? after.at(host) : std::set<std::string>{};
    for (const auto& line : was) {
      if (!now.contains(line)) lines.push_back(fmt::format("{} - {}", host, line));
    }
    for (const auto& line : now) {
      if (!was.contains(line)) lines.push_back(fmt::format("{} + {}", host, line));
    }
  }
  std::ranges::sort(lines);
  return lines;
}

std::vector<Expected> what_the_manifest_asks(const Scenario& s, const std::string& final_side) {
  std::vector<Expected> expected;
  if (final_side == "old") return expected;
  const auto& o = s.old_host;
  const auto& n = s.new_host;
  const std::string moved = "(192\\.0\\.2\\.|2001:db8:26:)";
  for (const auto& [host, sign] : {std::pair{o, "-"}, {n, "\\+"}}) {
    expected.push_back({fmt::format("{} {} address eth0 inet6? {}.*", host, sign, moved)});
    expected.push_back({fmt::format("{} {} route {}.* dev eth0 .*", host, sign, moved)});
    expected.push_back({fmt::format("{} [+-] line /etc/network/interfaces.*", host)});
    expected.push_back({fmt::format("{} [+-] file /etc/network/interfaces.*", host)});
    // What runs on one side only.
    expected.push_back({fmt::format("{} [+-] (service invoices (up|down)|file /etc/service/invoices/down .*)", host), false});
  }
  expected.push_back({fmt::format("{} - route default via {}.*", o, moved), false});
  expected.push_back({fmt::format("{} - sealed -{{4}}[^i].* {}", o, s.tree)});
  expected.push_back({fmt::format("{} \\+ sealed ----i.* {}", o, s.tree)});
  expected.push_back({fmt::format("{} - database {} {} t -1 .*", o, s.database, s.app_role)});
  expected.push_back({fmt::format("{} \\+ database {} {} f 0 .*", o, s.database, s.app_role)});
  expected.push_back({fmt::format("{} \\+ database {} {} t -1 .*", n, s.database, s.app_role)});
  expected.push_back({fmt::format("{} \\+ role ({}|{}) f .*", n, s.app_role, s.probe_role)});
  expected.push_back({fmt::format("{} \\+ catalog {} (?!.*midstream).*", n, s.database)});
  // New's own cluster, set aside: its directory, and what is in it.
  if (s.seeded) expected.push_back({fmt::format("{} \\+ file /var/lib/postgresql/15/main\\.before-{}(/.*| .*)", n, s.name)});
  for (const char* sign : {"\\+", "-"}) {
    expected.push_back({fmt::format("{} {} line /etc/haproxy/haproxy.cfg: +server ({}|{}) .* weight [0-9]+", s.edge, sign, join(s.web_old, "|"), join(s.web_new, "|"))});
    expected.push_back({fmt::format("{} {} file /etc/haproxy/haproxy.cfg .*", s.edge, sign)});
    expected.push_back({fmt::format("{} {} server .*/({}|{}|{}|{}) state .*", s.edge, sign, join(s.web_old, "|"), join(s.web_new, "|"), s.db_old, s.db_new)});
  }
  return expected;
}

Result<> judge_remains(const std::vector<std::string>& differences, const std::vector<Expected>& expected) {
  std::vector<std::string> wrong;
  std::vector<bool> found(expected.size());
  for (const auto& line : differences) {
    bool known = false;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (!std::regex_match(line, std::regex(expected[i].pattern))) continue;
      known = found[i] = true;
    }
    if (!known) wrong.push_back(line);
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i].must && !found[i]) wrong.push_back("the manifest asks for it, and it is not so: " + expected[i].pattern);
  }
  if (wrong.empty()) return {};
  return refused(fmt::format("{} things are not as the manifest asks:\n  {}", wrong.size(), join(wrong, "\n  ")));
}

}  // namespace midstream::lab
