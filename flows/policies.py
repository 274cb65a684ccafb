"""The risk policies of the settings, for every flow that judges by them."""

from __future__ import annotations

from flows.settings import Settings, SettingsError, variable
from schemas.policy import PolicyError, RiskPolicy, load_policies


def policies_of(settings: Settings) -> dict[str, RiskPolicy]:
    """Return the policies by profile. Raises SettingsError with every problem of every file."""
    try:
        return load_policies(settings.policies)
    except PolicyError as error:
        raise SettingsError(f"{variable('policies')}: {line}" for line in str(error).splitlines()) from error


def profiles_of(settings: Settings) -> dict[str, RiskPolicy]:
    """Return the policies of the profiles accounts are judged under, in the order asked for. Raises SettingsError for a profile nobody knows."""
    known = policies_of(settings)
    wanted = list(dict.fromkeys(settings.canary_profiles))
    unknown = [profile for profile in wanted if profile not in known]
    if unknown or not wanted:
        what = ", ".join(unknown) or "no profile"
        raise SettingsError([f"{variable('canary_profiles')}: {what} is in none of the policies; there are: {', '.join(known)}"])
    return {profile: known[profile] for profile in wanted}
