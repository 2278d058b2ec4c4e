#include "apps/movers.h"

#include "apps/gate_mover.h"
#include "apps/probe_mover.h"
#include "movers/addresses/addresses.h"
#include "movers/end/end.h"
#include "movers/files/files.h"
#include "movers/hosts/hosts.h"
#include "movers/mail/mail.h"
#include "movers/names/names.h"
#include "movers/postgres/postgres.h"
#include "movers/traffic/traffic.h"

namespace midstream {

std::vector<std::unique_ptr<Mover>> make_movers() {
  std::vector<std::unique_ptr<Mover>> movers;
  movers.push_back(make_files_mover());
  movers.push_back(make_postgres_mover());
  movers.push_back(make_traffic_mover());
  movers.push_back(make_names_mover());
  movers.push_back(make_addresses_mover());
  movers.push_back(make_hosts_mover());
  movers.push_back(make_end_mover());
  movers.push_back(make_mail_mover());
  movers.push_back(make_probe_mover());
  movers.push_back(make_gate_mover());
  return movers;
}

}  // namespace midstream
