#include <fmt/format.h>

#include "lab/provision.h"
#include "lab/schema.h"

namespace midstream::lab {

namespace {

constexpr const char* kConfig = "/etc/postgresql/15/main";
constexpr const char* kAsPostgres = "setpriv --reuid=postgres --regid=postgres --init-groups";

std::string server_config(const HostPlan& host) {
  return fmt::format(
      "data_directory = '/var/lib/postgresql/15/main'\n"
      "hba_file = '{0}/pg_hba.conf'\n"
      "ident_file = '{0}/pg_ident.conf'\n"
      "external_pid_file = '/run/postgresql/15-main.pid'\n"
      "listen_addresses = '{1}'\n"
      "port = 5432\n"
      "unix_socket_directories = '/var/run/postgresql'\n"
      "cluster_name = '15/main'\n"
      "max_connections = 200\n"
      "shared_buffers = 64MB\n"
      "max_wal_size = 128MB\n"
      "min_wal_size = 32MB\n"
      "wal_level = logical\n"
      "track_commit_timestamp = on\n"
      "max_worker_processes = 16\n"
      "max_logical_replication_workers = 8\n"
      "password_encryption = scram-sha-256\n"
      "timezone = 'UTC'\n"
      "log_timezone = 'UTC'\n"
      "log_line_prefix = '%m [%p] %q%u@%d '\n"
      "include_dir = 'conf.d'\n",
      kConfig, host.mgmt);
}

// Clients come through HAProxy, so from edge.
std::string access_rules() {
  return fmt::format(
      "local all           postgres                    peer\n"
      "local all           all                         scram-sha-256\n"
      "host  all           haproxy_check {0}/32        trust\n"
      "host  all           haproxy_check 0.0.0.0/0     reject\n"
      "host  all           all           10.77.0.0/24  scram-sha-256\n",
      kEdgeMgmt);
}

std::string template_script(const Scenario& s, bool with_database) {
  std::string text = fmt::format(
      "set -e\n"
      "install -d -o postgres -g postgres -m 2775 /run/postgresql\n"
      "install -d -o postgres -g postgres -m 0755 /var/lib/postgresql /var/lib/postgresql/15\n"
      "as='{0}'\nbin=/usr/lib/postgresql/15/bin\ndata=/var/lib/postgresql/15/main\n"
      "cd /\n"
      "$as $bin/initdb -D $data -E UTF8 --locale=C.UTF-8 --auth-local=peer --auth-host=scram-sha-256 >/dev/null\n"
      "rm -f $data/postgresql.conf $data/pg_hba.conf $data/pg_ident.conf\n"
      "$as $bin/pg_ctl -D $data -s -w -l /tmp/template.log -o '-c config_file={1}/postgresql.conf -c "
      "listen_addresses= -c fsync=off' start\n"
      "sql() {{ $as $bin/psql -X -q -v ON_ERROR_STOP=1 \"$@\"; }}\n"
      "sql -c 'create role haproxy_check login'\n",
      kAsPostgres, kConfig);
  if (with_database) {
    text += fmt::format(
        "sql -c 'create role \"{0}\" login' -c 'create role \"{1}\" login' -c 'create database \"{2}\" owner \"{0}\"'\n"
        "sql -d {2} -v owner={0} -f /tmp/schema.sql >/dev/null\n"
        "sql -d {2} -c 'grant select, insert, update, delete on probe to \"{1}\"' -c 'vacuum analyze'\n",
        s.app_role, s.probe_role, s.database);
  }
  text +=
      "$as $bin/pg_ctl -D $data -s -w -m fast stop\n"
      "rm -rf /tmp/template.log /tmp/schema.sql /root/template.sh\n"
      "sync\n";
  return text;
}

}  // namespace

void add_database(FileSet& files, const Scenario&, const HostPlan& host) {
  files.directory("/etc/postgresql", 0755, kPostgres);
  files.directory("/etc/postgresql/15", 0755, kPostgres);
  files.directory(kConfig, 0755, kPostgres);
  files.directory(fmt::format("{}/conf.d", kConfig), 0755, kPostgres);
  files.file(fmt::format("{}/postgresql.conf", kConfig), server_config(host), 0644, kPostgres);
  files.file(fmt::format("{}/pg_hba.conf", kConfig), access_rules(), 0640, kPostgres);
  files.file(fmt::format("{}/pg_ident.conf", kConfig), "", 0640, kPostgres);
  files.file(fmt::format("{}/start.conf", kConfig), "manual\n", 0644, kPostgres);
  files.service("postgresql",
                fmt::format("{} /usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/15/main -c "
                            "config_file={}/postgresql.conf",
                            kAsPostgres, kConfig),
                "install -d -o postgres -g postgres -m 2775 /run/postgresql\n");
  files.file("/etc/service/postgresql/stop-signal", "INT\n");
}

// The passwords as verifiers, so that no server log can ever hold them. Applied, and removed, once the server is up.
void add_roles(FileSet& files, const Scenario& scenario, const Secrets& secrets) {
  std::string sql;
  for (const auto& [role, password] : {std::pair(scenario.app_role, secrets.app_password),
                                       std::pair(scenario.probe_role, secrets.probe_password)}) {
    if (auto verifier = scram_verifier(password)) sql += fmt::format("alter role \"{}\" password '{}';\n", role, *verifier);
  }
  files.file("/root/roles.sql", sql, 0600);
}

FileSet provision_cluster_template(const Scenario& scenario, const HostPlan& side) {
  FileSet files;
  add_base(files, side, scenario.zone);
  add_database(files, scenario, side);
  const bool with_database = side.role == Role::old_side;
  if (with_database) files.file("/tmp/schema.sql", std::string(kSchema));
  files.file("/root/template.sh", template_script(scenario, with_database), 0700);
  return files;
}

}  // namespace midstream::lab
