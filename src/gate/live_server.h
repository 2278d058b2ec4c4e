// For live tests: a real PostgreSQL 15 in a directory of its own, in the world that encloses the test (sys/enclosed.h).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "sys/child.h"

namespace midstream::gate {

Exit run_program(std::vector<std::string> argv, const std::string& input = "");
// "" if live tests can run here, else why not.
std::string cannot_run_live();

class LiveServer {
 public:
  // In `root`/`name`, on 127.0.0.1:`port` and the socket directory `root`; `settings`: more of them, as for postgres -c.
  LiveServer(std::filesystem::path root, std::string name, int port, std::vector<std::string> settings = {});
  ~LiveServer();  // stopped at once, by force
  // "" once it runs, else what went wrong.
  std::string start();
  std::string stop(const std::string& mode);
  std::string postmaster() const;  // its process id
  Exit sql(const std::string& text, const std::string& database = "postgres") const;  // as superuser
  // The one value that it gives; the error where it fails.
  std::string value(const std::string& text, const std::string& database = "postgres") const;

 private:
  std::string control(std::vector<std::string> more) const;
  const std::filesystem::path root_;
  const std::string name_;
  const int port_;
  const std::vector<std::string> settings_;
};

}  // namespace midstream::gate
