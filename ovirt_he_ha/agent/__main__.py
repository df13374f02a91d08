import sys

from ovirt_he_ha.agent.service import main

sys.exit(main())
