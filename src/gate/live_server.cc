#include "gate/live_server.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <fstream>

#include "base/text.h"
#include "sys/clock.h"
#include "sys/enclosed.h"

namespace midstream::gate {

namespace {

const std::string kBin = "/usr/lib/postgresql/15/bin/";

Exit as_postgres(std::vector<std::string> command) {
  command.insert(command.begin(), {"runuser", "-u", "postgres", "--"});
  return run_program(std::move(command));
}

}  // namespace

Exit run_program(std::vector<std::string> argv, const std::string& input) {
  auto exit = run_child(argv, input, Deadline::in(Millis(120'000)));
  return exit ? *exit : Exit{.code = 255, .err = exit.error().text()};
}

std::string cannot_run_live() {
  const bool can = test::enclosed() && ::getpwnam("postgres") != nullptr && std::filesystem::exists(kBin + "initdb");
  return can ? "" : "needs root, PostgreSQL 15 and namespaces";
}

LiveServer::LiveServer(std::filesystem::path root, std::string name, int port, std::vector<std::string> settings)
    : root_(std::move(root)), name_(std::move(name)), port_(port), settings_(std::move(settings)) {}

LiveServer::~LiveServer() { (void)stop("immediate"); }

std::string LiveServer::control(std::vector<std::string> more) const {
  more.insert(more.begin(), {kBin + "pg_ctl", "-D", root_ / name_, "-w", "-l", root_ / (name_ + ".log")});
  const auto exit = as_postgres(std::move(more));
  return exit.code == 0 ? "" : exit.err + exit.out;
}

std::string LiveServer::start() {
  if (!std::filesystem::exists(root_ / name_)) {
    const auto made = as_postgres({kBin + "initdb", "--no-sync", "-A", "peer", "-E", "UTF8", "--locale=C.UTF-8", "-D", root_ / name_});
    if (made.code != 0) return made.err;
    std::ofstream(root_ / name_ / "pg_hba.conf") << "local all all peer\nhost all,replication all 127.0.0.1/32 scram-sha-256\n";
  }
  auto options = fmt::format("-p {} -c listen_addresses=127.0.0.1 -k {}", port_, root_.string());
  for (const auto& one : settings_) options += " -c " + one;
  return control({"-o", options, "start"});
}

std::string LiveServer::stop(const std::string& mode) { return control({"-m", mode, "stop"}); }

std::string LiveServer::postmaster() const {
  std::ifstream file(root_ / name_ / "postmaster.pid");
  std::string pid;
  std::getline(file, pid);
  return pid;
}

Exit LiveServer::sql(const std::string& text, const std::string& database) const {
  return as_postgres({"psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-h", root_.string(), "-p", std::to_string(port_), "-d", database, "-c", text});
}

std::string LiveServer::value(const std::string& text, const std::string& database) const {
  const auto exit = sql(text, database);
  return exit.code == 0 ? std::string(trim(exit.out)) : exit.err;
}

}  // namespace midstream::gate
