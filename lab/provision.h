// What stands on each host's disk before its first boot: accounts, network, daemons' configuration, data, secrets.
// All of it is a pure function of the scenario and the secrets.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "base/result.h"
#include "lab/files.h"
#include "lab/scenario.h"

namespace midstream::lab {

struct KeyPair {
  std::string private_key;
  std::string public_key;  // one line, without the newline
};

struct MailSecrets {
  std::map<std::string, std::string> passwords;  // by address
  std::map<std::string, std::string> verifiers;  // the same, as Dovecot keeps them (scheme SSHA512): one for both sides
  std::string certificate, key;                  // PEM; for the mail names, its own authority
  std::string authority_file;                    // the certificate's file name in a directory of authorities
  std::string dkim_key;                          // PEM
};
Result<MailSecrets> make_mail_secrets(const Scenario& scenario);

// Fresh for every lab.
struct Secrets {
  KeyPair operator_key;
  std::map<std::string, KeyPair> host_keys;  // by host name
  std::string tsig_secret;                   // base64
  std::string app_password, probe_password;
  MailSecrets mail;
};

// `scratch` is made, used by ssh-keygen and removed.
Result<Secrets> make_secrets(const Scenario& scenario, const std::filesystem::path& scratch);

// The stored form of `password` (RFC 5803), with a fresh salt.
Result<std::string> scram_verifier(const std::string& password);

FileSet provision(const Scenario& scenario, const HostPlan& host, const Secrets& secrets);

// What a template image of the cluster of `side` (old_side or new_side) is built from; its /root/template.sh, run as
// process 1 of a host without a network, does it. No secrets are in it.
FileSet provision_cluster_template(const Scenario& scenario, const HostPlan& side);

// The parts, one for each topic.
void add_base(FileSet& files, const HostPlan& host, const std::string& zone);
void add_network(FileSet& files, const Scenario& scenario, const HostPlan& host);
void add_ssh(FileSet& files, const Scenario& scenario, const HostPlan& host, const Secrets& secrets);
void add_database(FileSet& files, const Scenario& scenario, const HostPlan& host);
void add_roles(FileSet& files, const Scenario& scenario, const Secrets& secrets);
void add_edge_proxy(FileSet& files, const Scenario& scenario);
void add_relay(FileSet& files, const HostPlan& host);
void add_name_server(FileSet& files, const Scenario& scenario, const HostPlan& host, const Secrets& secrets);
std::string tsig_key_file(const Scenario& scenario, const Secrets& secrets);
void add_shop(FileSet& files, const Scenario& scenario, const HostPlan& host, const Secrets& secrets);
// What must never run twice: up on old, installed and down on new.
void add_worker(FileSet& files, const Scenario& scenario, const HostPlan& host);
std::string worker_log(const Scenario& scenario);
void add_operator(FileSet& files, const Scenario& scenario, const Secrets& secrets);
// Dovecot and Postfix. The old side has mail already, the new one is ready and empty.
void add_mail(FileSet& files, const Scenario& scenario, const HostPlan& host, const Secrets& secrets);
// postdrop and postqueue are setgid in the machine's /usr, which all hosts share: the group's number is the machine's.
gid_t postdrop_group();
// What clients and probes of mail need to log in.
void add_mail_users(FileSet& files, const Scenario& scenario, const Secrets& secrets);
std::string move_manifest(const Scenario& scenario);

}  // namespace midstream::lab
