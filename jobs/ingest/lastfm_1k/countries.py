"""Country names as the Last.fm profile writes them, and their ISO 3166-1 alpha-2 codes."""

from __future__ import annotations

# "Netherlands Antilles" is left out on purpose: its code was withdrawn in 2011, so it counts as unknown.
CODES = {
    "Algeria": "DZ", "Antarctica": "AQ", "Argentina": "AR", "Armenia": "AM", "Australia": "AU", "Austria": "AT",
    "Belarus": "BY", "Belgium": "BE", "Bosnia and Herzegovina": "BA", "Brazil": "BR",
    "British Indian Ocean Territory": "IO", "Bulgaria": "BG", "Canada": "CA", "Chile": "CL", "China": "CN",
    "Colombia": "CO", "Congo, the Democratic Republic of the": "CD", "Cote D'Ivoire": "CI", "Croatia": "HR",
    "Czech Republic": "CZ", "Estonia": "EE", "Finland": "FI", "France": "FR", "Germany": "DE", "Greece": "GR",
    "Hungary": "HU", "Iceland": "IS", "India": "IN", "Ireland": "IE", "Israel": "IL", "Italy": "IT", "Japan": "JP",
    "Korea, Democratic People's Republic of": "KP", "Latvia": "LV", "Lithuania": "LT", "Macedonia": "MK",
    "Malta": "MT", "Mexico": "MX", "Morocco": "MA", "Netherlands": "NL", "New Zealand": "NZ", "Nicaragua": "NI",
    "Northern Mariana Islands": "MP", "Norway": "NO", "Peru": "PE", "Poland": "PL", "Portugal": "PT", "Romania": "RO",
    "Russian Federation": "RU", "Serbia": "RS", "Singapore": "SG", "Slovakia": "SK", "Slovenia": "SI", "Spain": "ES",
    "Sweden": "SE", "Switzerland": "CH", "Thailand": "TH", "Trinidad and Tobago": "TT", "Tunisia": "TN",
    "Turkey": "TR", "United Kingdom": "GB", "United States": "US", "United States Minor Outlying Islands": "UM",
    "Venezuela": "VE", "Zimbabwe": "ZW",
}  # fmt: skip
