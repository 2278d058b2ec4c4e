// Who runs the local server, as the host's supervisor knows it, so that it can be stopped and started in order.
#pragma once

#include <filesystem>
#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

struct ServerUnit {
  std::string kind;  // "systemd"; "directory": a service of /etc/service; "given": PostgresOptions::server
  std::string name;  // "postgresql@15-main.service"
};
Json to_json(const ServerUnit& unit);
ServerUnit server_unit_from_json(const Json& value);
std::string words_of(const ServerUnit& unit);

// Of the server that runs on `data`. Refused where nothing that we know runs it: it could not be started again.
Result<ServerUnit> find_server_unit(const Work& work, const std::filesystem::path& data);
// Returns once no process of it has `data` open any more, and the supervisor leaves it stopped.
Result<> stop_server(const Work& work, const ServerUnit& unit, const std::filesystem::path& data);
// Returns once it answers.
Result<> start_server(const Work& work, const ServerUnit& unit, const std::filesystem::path& data);
// The process that the directory's own note names, if it lives; else 0.
int postmaster_of(const std::filesystem::path& data);

}  // namespace midstream::postgres
